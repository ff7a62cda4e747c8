"""DIODE: one laser scanner, indoors and outdoors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

CAMERA = {"fx": 886.81, "fy": 927.06, "cx": 512.0, "cy": 384.0}
"""Of every image: they are crops of panoramas, drawn with one computed camera (intrinsics.txt of the devkit)."""

PLACES = ("indoors", "outdoor")


@dataclass(frozen=True)
class Diode(LabelledSet):
    """DIODE (Dense Indoor and Outdoor DEpth), https://diode-dataset.org.

    root/val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png
    root/val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010_depth.npy
    root/val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010_depth_mask.npy
    and root/val/outdoor, root/train/indoors, root/train/outdoor in the same way (val.tar.gz, train.tar.gz).

    Licence: MIT. The label is the scanner's depth in metres, float32 (768 x 1024 x 1); the owners do not say whether
    along the optical axis or the ray, and evaluations take it as the former. It is invalid where the mask is not 1,
    which marks a valid return of the scanner. An image without depth or mask is dropped.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `val` (325 images indoors, 446 outdoors) or `train` (25,458).
        place: `indoors`, `outdoor` or `all`.
    """

    part: str = "val"
    place: str = "all"

    source = "diode"
    licence = "MIT"
    PARTS = ("val", "train")

    def __post_init__(self) -> None:
        if self.place not in ("all", *PLACES):
            raise UserError(f"Expected place=all, indoors or outdoor, but got {self.place!r}.")

    def find(self, root: Path) -> Iterator[Item]:
        """Images and depth maps of the part and place; names keep the place, for scenes of both count from 0."""
        for place in PLACES if self.place == "all" else (self.place,):
            folder = f"{self.part}/{place}/scene_*/scan_*"
            images, labels = find_names(root, f"{folder}/*.png"), find_names(root, f"{folder}/*_depth.npy")
            for item in pair_up(images, labels):
                mask = item.label.replace("_depth.npy", "_depth_mask.npy")
                yield item._replace(name=item.name.rpartition("/")[2], extra=(mask,))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy with 0 outside the mask."""
        depth_m, mask = read_map(root / item.label), read_map(root / item.extra[0])
        if depth_m.shape != mask.shape:
            raise BadSample("mask_size", f"Expected a mask of the label's {depth_m.shape}, but got {mask.shape}.")
        label = RawLabel.from_array(np.where(mask == 1, depth_m, 0))
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})


def read_map(path: Path) -> NDArray[Any]:
    """Numbers (H, W) of a .npy file of shape (H, W) or (H, W, 1).

    Raises:
        BadSample: `unreadable_file`, `damaged_label`, or `label_type` if it is of another shape or kind.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a wrong header allocates nothing
    except OSError as error:
        raise BadSample("unreadable_file", f"{path.name} cannot be read: {error.strerror}.") from None
    except Exception as error:  # NumPy parses the header as Python: damage shows as almost any error
        raise BadSample("damaged_label", f"{path.name} is damaged or no .npy file: {error}.") from None
    if stored.ndim not in (2, 3) or stored.shape[2:] not in ((), (1,)) or stored.dtype.kind not in "fiub":
        raise BadSample("label_type", f"Expected numbers (H, W, 1), but {path.name} is {stored.dtype} {stored.shape}.")
    return np.array(stored).reshape(stored.shape[:2])
