"""NYU Depth V2: the labelled images with their official split, and the synchronised frames that models train on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_engine.ingest.base import list_files, read_file, stem
from data_engine.ingest.labelled import Item, LabelledSet, RawPair
from data_engine.ingest.raw_files import encode_rgb, open_mat73, read_lines, read_mat, require_file
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.runtime import UserError

CAMERA = {"fx": 518.85790117450188, "fy": 519.46961112127485, "cx": 325.58244941119034, "cy": 253.73616633400465}
"""The Kinect's colour camera, from camera_params.m of the set's toolbox."""

LICENCE = "none stated (research use)"

LABELLED_FILE, SPLITS_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
FIELDS = {"raw": "rawDepths", "filled": "depths"}


@dataclass(frozen=True)
class NyuLabelled(LabelledSet):
    """NYU Depth V2 (Silberman et al. 2012), the 1,449 densely labelled images; its page at NYU has both files.

    Expected below root: nyu_depth_v2_labeled.mat (the "labeled dataset", 2.8 GB) and splits.mat (the train/test split).

    Depth in metres, 640 x 480, projected onto the colour image. `rawDepths` has 0 where the Kinect measured nothing;
    `depths` has those holes filled by colourisation, which published evaluations do not use. Images are arrays in the
    file and become PNG. The white frame that undistortion left around them stays: cutting it off is up to the
    protocol (`eigen_nyu`). Parts: test 654, train 795. Licence: none stated.

    Args:
        depth: `raw`, as measured, or `filled`.
    """

    part: str = "test"
    depth: str = "raw"

    source = "nyuv2"
    licence = LICENCE
    PARTS = ("test", "train", "all")

    def __post_init__(self) -> None:
        if self.depth not in FIELDS:
            raise UserError(f"Expected depth=raw or depth=filled, but came {self.depth!r}.")

    def find(self, root: Path) -> Iterable[Item]:
        """The images of the part by their number in the file, from 1 as in splits.mat."""
        if not (root / LABELLED_FILE).is_file():
            return []
        if self.part == "all":
            with open_mat73(root / LABELLED_FILE) as mat:
                numbers = range(1, len(mat["images"]) + 1)
        else:
            splits = read_mat(require_file(root / SPLITS_FILE, what="the official split of NYUv2"))
            numbers = splits[f"{self.part}Ndxs"].ravel().tolist()
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

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {**super().info()["settings"], "depth": self.depth}}


@dataclass(frozen=True)
class NyuSync(LabelledSet):
    """NYU Depth V2, frames of the raw videos with depth synchronised and projected, as BTS, AdaBins and ZoeDepth train.

    Expected below root: SCENE/rgb_NNNNN.jpg and SCENE/sync_depth_NNNNN.png (the "sync" folder that BTS published).

    Depth is 16-bit PNG in millimetres, 0 where nothing was measured. `file_list` is the published
    nyudepthv2_train_files_with_gt.txt (24,231 frames; in train_test_inputs/ of ZoeDepth and BTS); each of its lines
    names image and depth below root. Without one, every frame is taken. Frames without a partner are dropped. The
    frames come from the scenes of the training split, so a model that learned from them is not zero-shot on NYUv2.
    Licence: none stated.

    Args:
        file_list: path of a published list; None takes every frame.
    """

    file_list: str | None = None

    source = "nyuv2_sync"
    licence = LICENCE

    def find(self, root: Path) -> Iterable[Item]:
        """Every frame, or those of the list."""
        if self.file_list is None:
            images = (path for path in list_files(root, ("jpg",)) if Path(path).name.startswith("rgb_"))
            return [Item(stem(image), image, f"{stem(image)}.png".replace("rgb_", "sync_depth_")) for image in images]
        return [self._listed(line) for line in read_lines(Path(self.file_list), what="the list of NYUv2 frames")]

    def _listed(self, line: str) -> Item:
        paths = [path.lstrip("/") for path in line.split()[:2]]  # training lists start with "/", test lists do not
        if len(paths) < 2:
            raise UserError(f"Expected lines `IMAGE DEPTH FOCAL` in {self.file_list}, but came {line!r}.")
        image, label = paths
        return Item(stem(image), image, label)

    def read(self, root: Path, item: Item) -> RawPair:
        """Read one frame; the depth's bytes stay.

        Raises:
            BadSample: `unreadable_file`.
        """
        label = RawLabel("depth", "png", read_file(root / item.label), scale=1000.0)
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})
