"""NYU Depth V2: the labelled images with their official split, and the synchronised frames that models train on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_engine.ingest.base import read_file, stem
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import encode_rgb, open_mat73, read_lines, read_split
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.runtime import UserError

CAMERA = {"fx": 518.85790117450188, "fy": 519.46961112127485, "cx": 325.58244941119034, "cy": 253.73616633400465}
"""The Kinect's colour camera, from camera_params.m of the set's toolbox."""

LICENCE = "none stated (research use)"

LABELLED_FILE, SPLITS_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
FIELDS = {"raw": "rawDepths", "filled": "depths"}


@dataclass(frozen=True)
class NyuLabelled(LabelledSet):
    """NYU Depth V2, its 1,449 labelled images, https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html.

    root/nyu_depth_v2_labeled.mat     the "labeled dataset", MATLAB 7.3
    root/splits.mat                   its split, on the page of the paper (Indoor Segmentation and Support Inference)

    Licence: none stated. The label is the Kinect's depth along the optical axis in metres, projected onto the colour
    image (640 x 480): `rawDepths` with 0 where nothing was measured, which evaluations use, or `depths` with the holes
    coloured in. Images are arrays in the file and become PNG. The white frame that undistortion left around them
    stays; cutting it off is up to the protocol (`eigen_nyu`).

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `test` (654 images), `train` (795) or `all`.
        depth: `raw`, as measured, or `filled`.
    """

    part: str = "test"
    depth: str = "raw"

    source = "nyuv2"
    licence = LICENCE
    PARTS = ("test", "train", "all")

    def __post_init__(self) -> None:
        if self.depth not in FIELDS:
            raise UserError(f"Expected depth=raw or depth=filled, but got {self.depth!r}.")

    def find(self, root: Path) -> Iterable[Item]:
        """The images of the part by their number in the file, from 1 as in splits.mat."""
        if not (root / LABELLED_FILE).is_file():
            return []
        if self.part == "all":
            with open_mat73(root / LABELLED_FILE) as mat:
                numbers = [*range(1, len(mat["images"]) + 1)]
        else:
            numbers = read_split(root / SPLITS_FILE, f"{self.part}Ndxs", what="the official split of NYUv2")
        return [Item(f"{number:04d}", LABELLED_FILE, str(number)) for number in numbers]

    def read(self, root: Path, item: Item) -> RawPair:
        """Read one image out of the file.

        Raises:
            BadSample: `damaged_mat`.
        """
        index = int(item.label) - 1
        with open_mat73(root / LABELLED_FILE) as mat:
            pixels, depth_m = mat["images"][index].T, mat[FIELDS[self.depth]][index].T
        return RawPair(encode_rgb(pixels), RawLabel.from_array(depth_m), {"camera": CAMERA})


@dataclass(frozen=True)
class NyuSync(LabelledSet):
    """NYU Depth V2, frames of the videos with depth synchronised, which BTS published (https://github.com/cleinc/bts).

    root/basement_0001a/rgb_00045.jpg
    root/basement_0001a/sync_depth_00045.png

    Licence: none stated. The label is the Kinect's depth along the optical axis, 16-bit PNG in millimetres, projected
    onto the colour image, 0 where nothing was measured. The published list nyudepthv2_train_files_with_gt.txt (24,231
    frames; train_test_inputs/ of BTS and of ZoeDepth) is what metric models train on. The scenes are those of the
    official training split. A frame without image or depth is dropped.

    Args:
        root, part, count, seed: as in `LabelledSet`.
        file_list: path of a published list; None takes every frame.
    """

    file_list: str | None = None

    source = "nyuv2_sync"
    licence = LICENCE

    def find(self, root: Path) -> Iterable[Item]:
        """Every frame, or those of the list."""
        if self.file_list is None:
            return pair_up(find_names(root, "*/rgb_*.jpg"), find_names(root, "*/sync_depth_*.png"))
        return map(self._listed, read_lines(Path(self.file_list), what="the list of NYUv2 frames"))

    def _listed(self, line: str) -> Item:
        paths = [path.lstrip("/") for path in line.split()[:2]]  # training lists start with "/", test lists do not
        if len(paths) < 2:
            raise UserError(f"Expected lines `IMAGE DEPTH FOCAL` in {self.file_list}, but got {line!r}.")
        image, label = paths
        return Item(stem(image).replace("/rgb_", "/"), image, label)

    def read(self, root: Path, item: Item) -> RawPair:
        """Read one frame; the depth's bytes stay.

        Raises:
            BadSample: `unreadable_file`.
        """
        label = RawLabel("depth", "png", read_file(root / item.label), scale=1000.0)
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})

    def info(self) -> dict[str, Any]:
        """The settings that change what is written; of the list's path, which is this machine's, the name."""
        settings = super().info()["settings"]
        return {"settings": {**settings, "file_list": self.file_list and Path(self.file_list).name}}
