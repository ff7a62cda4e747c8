"""KITTI: photographs of the raw recordings with the accumulated LiDAR depth of the depth benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair
from data_engine.ingest.raw_files import pinhole, read_lines
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

SPLITS = ("train", "val")
CAMERAS = {"l": "image_02", "r": "image_03"}

_DRIVE = r"(?P<drive>\d{4}_\d\d_\d\d_drive_\d{4}_sync)"
_PATHS = re.compile(_DRIVE + r"/(?P<camera>image_0[23])/data/(?P<frame>\d+)\.png\b")
_FRAME_AND_SIDE = re.compile(_DRIVE + r" (?P<frame>\d+) (?P<side>[lr])\b")


@dataclass(frozen=True)
class Kitti(LabelledSet):
    """KITTI raw with the improved depth of its depth benchmark, https://www.cvlibs.net/datasets/kitti.

    root/raw/2011_09_26/calib_cam_to_cam.txt                                                       "calibration"
    root/raw/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png                    "synced + rectified"
    root/data_depth_annotated/train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png
    image_03 and data_depth_annotated/val in the same way ("annotated depth maps data set").

    Licence: CC BY-NC-SA 3.0. The label is the depth along the optical axis of several LiDAR scans, 16-bit PNG of
    metres * 256, 0 where nothing was measured: about 20 % of the pixels hold a value, hardly any in the upper third.
    Published lists: kitti_eigen_test_files_with_gt.txt (697 frames) and kitti_eigen_train_files_with_gt.txt (23,158),
    both in train_test_inputs/ of BTS and of ZoeDepth; dataset/splits/kitti/val.txt of Depth Anything V2 (652); the
    Eigen lists of Monodepth2 (`DRIVE FRAME SIDE`). The 45 test frames that were never annotated are dropped as
    `missing_label`, which leaves the 652 of the papers. Frames of a day whose calibration is missing have no camera.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `all`, or `train` or `val` of the benchmark; with a list, its frames that are in that part.
        file_list: path of a published list; None takes every annotated frame of both cameras.
        raw, annotated: the two folders, relative to root, where they have other names.
    """

    file_list: str | None = None
    raw: str = "raw"
    annotated: str = "data_depth_annotated"

    source = "kitti"
    licence = "CC BY-NC-SA 3.0"
    PARTS = ("all", *SPLITS)

    def find(self, root: Path) -> Iterable[Item]:
        """Annotated frames of the part, or the frames of the list; of a part, those of the list that are in it."""
        if self.file_list is None:
            return [
                _item(drive=path.parts[-5], camera=path.parts[-2], frame=path.stem)
                for split in self._splits()
                for path in (root / self.annotated / split).glob("*/proj_depth/groundtruth/image_0[23]/*.png")
            ]
        items = map(self._listed, read_lines(Path(self.file_list), what="the list of KITTI frames"))
        return [item for item in items if self.part == "all" or self._label(root, item)]

    def read(self, root: Path, item: Item) -> RawPair:
        """Read one frame; the depth's bytes stay.

        Raises:
            BadSample: `missing_label`, `unreadable_file`, `damaged_calibration`.
        """
        path = self._label(root, item)
        if path is None:
            raise BadSample("missing_label", f"No improved depth map exists for this frame; expected {item.label}.")
        (camera,) = item.extra
        calibration = root / self.raw / item.image.partition("/")[0] / "calib_cam_to_cam.txt"
        known = calibration.is_file()
        notes = {} if known else {"camera_unknown": 1}
        label = RawLabel("depth", "png", read_file(path), scale=256.0, notes=notes)
        facts = {"camera": read_camera(calibration, camera) if known else None}
        return RawPair(read_file(root / self.raw / item.image), label, facts)

    def info(self) -> dict[str, Any]:
        """The settings that change what is written; of paths, which are this machine's, the names."""
        settings = super().info()["settings"]
        paths = {name: settings[name] and Path(settings[name]).name for name in ("file_list", "raw", "annotated")}
        return {"settings": {**settings, **paths}}

    def _splits(self) -> tuple[str, ...]:
        return SPLITS if self.part == "all" else (self.part,)

    def _label(self, root: Path, item: Item) -> Path | None:
        paths = (root / self.annotated / split / item.label for split in self._splits())
        return next((path for path in paths if path.is_file()), None)

    def _listed(self, line: str) -> Item:
        found = _PATHS.search(line) or _FRAME_AND_SIDE.search(line)
        if found is None:
            wanted = "paths of raw frames, or `DRIVE FRAME SIDE`,"
            raise UserError(f"Expected {wanted} in {self.file_list}, but got {line[:120]!r}.")
        parts = found.groupdict()
        camera = parts["camera"] if "camera" in parts else CAMERAS[parts["side"]]
        return _item(drive=parts["drive"], camera=camera, frame=parts["frame"].zfill(10))


def _item(*, drive: str, camera: str, frame: str) -> Item:
    return Item(
        name=f"{drive}/{camera}/{frame}",
        image=f"{drive[:10]}/{drive}/{camera}/data/{frame}.png",
        label=f"{drive}/proj_depth/groundtruth/{camera}/{frame}.png",
        extra=(camera,),
    )


def read_camera(calibration: Path, camera: str) -> dict[str, Any]:
    """Camera of a rectified `image_0N`, out of P_rect_0N in calib_cam_to_cam.txt.

    Raises:
        BadSample: `unreadable_file`, `damaged_calibration`.
    """
    text = read_file(calibration).decode("utf-8", "replace")
    found = re.search(rf"^P_rect_{camera[-2:]}:(.*)$", text, re.MULTILINE)
    try:
        return pinhole(np.array(found[1].split() if found else [], float).reshape(3, 4))
    except ValueError:
        message = f"Expected 12 numbers P_rect_{camera[-2:]} in {calibration.name}; unpack it again."
        raise BadSample("damaged_calibration", message) from None
