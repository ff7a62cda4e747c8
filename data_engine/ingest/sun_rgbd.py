"""SUN RGB-D: rooms seen by four depth cameras."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair
from data_engine.ingest.raw_files import pinhole, read_split
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.labels import read_png16
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

DEPTHS = ("depth_bfx", "depth")
SPLIT_FILE = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"


@dataclass(frozen=True)
class SunRgbd(LabelledSet):
    """SUN RGB-D, 10,335 images of Kinect 1 and 2, RealSense and Xtion, https://rgbd.cs.princeton.edu.

    root/SUNRGBD/kv1/NYUdata/NYU0001/image/NYU0001.jpg             SUNRGBD.zip
    root/SUNRGBD/kv1/NYUdata/NYU0001/depth_bfx/NYU0001.png         and depth/NYU0001.png beside it
    root/SUNRGBD/kv1/NYUdata/NYU0001/intrinsics.txt
    root/SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat              SUNRGBDtoolbox.zip; not for part=all

    Licence: as on that page. The label is the depth along the optical axis in millimetres, aligned with the image: 16
    bits that the set stores turned left by 3, as its read3dPoints.m undoes them. Here they are turned back and written
    as 16-bit PNG; 0 is not measured. The toolbox puts everything beyond 8 m at 8 m; here values stay, and a cap is up
    to the protocol. A folder without an image, a depth map or a camera is dropped.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `test` (5,050 images), `train` (5,285) or `all`.
        depth: `depth_bfx`, refined and with smaller holes, which the toolbox and published evaluations use, or
            `depth`, as the camera measured it.
    """

    part: str = "test"
    depth: str = "depth_bfx"

    source = "sun_rgbd"
    licence = "see https://rgbd.cs.princeton.edu"
    PARTS = ("test", "train", "all")

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise UserError(f"Expected depth=depth_bfx or depth=depth, but got {self.depth!r}.")

    def find(self, root: Path) -> Iterator[Item]:
        """The folders of the part; each holds one image and one depth map, whose names may differ."""
        for name in self._folders(root) if (root / "SUNRGBD").is_dir() else ():
            folder = f"SUNRGBD/{name}"
            yield Item(name, f"{folder}/image", f"{folder}/{self.depth}", (f"{folder}/intrinsics.txt",))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as 16-bit PNG in millimetres.

        Raises:
            BadSample: `missing_image`, `missing_label`, `unreadable_file`, `damaged_calibration`.
        """
        image = only_file(root / item.image, "[!.]*.jpg", what="image")
        label = only_file(root / item.label, "[!.]*.png", what="label")
        millimetres = turn_back(read_png16(read_file(label)))
        camera = read_camera(root / item.extra[0])
        return RawPair(read_file(image), RawLabel.from_codes(millimetres, scale=1000), {"camera": camera})

    def _folders(self, root: Path) -> Iterable[str]:
        if self.part == "all":
            return find_folders(root / "SUNRGBD")
        paths = read_split(root / SPLIT_FILE, f"all{self.part}", what="the official split of SUN RGB-D")
        # /n/fs/sun3d/data/SUNRGBD/kv1/NYUdata/NYU0001 as it lay at its owners; some end with a slash
        return (path.partition("/SUNRGBD/")[2].strip("/") for path in paths)


def find_folders(root: Path) -> Iterator[str]:
    """Folders below `root` that hold an image folder, relative with `/`."""
    for folder, below, _ in os.walk(root):
        if "image" in below:
            yield Path(folder).relative_to(root).as_posix()
            below.clear()


def only_file(folder: Path, pattern: str, *, what: str) -> Path:
    """The one file of a folder that fits the pattern.

    Raises:
        BadSample: `missing_image` or `missing_label`, by `what`, if there is none or more than one.
    """
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise BadSample(f"missing_{what}", f"Expected one {what} in {folder.name}/, but there are {len(found)}.")
    return found[0]


def turn_back(stored: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Millimetres: the 16 bits of each value, turned right by 3."""
    return (stored >> np.uint16(3)) | (stored << np.uint16(13))


def read_camera(path: Path) -> dict[str, float]:
    """Camera of intrinsics.txt: nine numbers, row by row.

    Raises:
        BadSample: `unreadable_file`, `damaged_calibration`.
    """
    words = read_file(path).split()
    try:
        return pinhole(np.array(words, float).reshape(3, 3))
    except ValueError:
        raise BadSample("damaged_calibration", f"Expected nine numbers in {path.name}; unpack it again.") from None
