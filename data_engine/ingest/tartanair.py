"""TartanAir: flights through rendered places, from cities to forests and the sea."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.labels import read_npy
from depth_anything_train.data.schema import BadSample

CAMERA = pinhole([[320, 0, 320], [0, 320, 240]], first_pixel=0.5)
"""As stated for images of 640 x 480: a field of view of 90 degrees, the axis in the middle."""

SKY_DEPTH_M = 10_000.0
"""The sky is a dome farther away than this."""

NEAR_SKY = "amusement"
"""In this place the dome is nearer and cannot be told from what stands before it."""


@dataclass(frozen=True)
class TartanAir(LabelledSet):
    """TartanAir v1, 306,637 left images of 18 places, https://theairlab.org/tartanair-dataset/.

    root/PLACE/Easy/P000/image_left/000000_left.png
    root/PLACE/Easy/P000/depth_left/000000_left_depth.npy
    and the same in root/PLACE/Hard. The archives may also be unpacked as root/PLACE/PLACE/Easy/P000/...
    Only the archives image_left.zip and depth_left.zip are needed.

    Licence: CC BY 4.0. The label is depth along the optical axis in metres, float32; 0 is not measured. The sky is
    drawn on a dome: what is farther than 10 km is sky, a mask and no depth. In the place `amusement` the dome is near,
    and the sky cannot be told from what stands before it: all its images (4 %) are dropped as `wrong_sky`. The right
    camera is not used.

    Args:
        root, part, count, seed: as in `LabelledSet`; there are no official splits.
    """

    source = "tartanair"
    licence = "CC BY 4.0"

    def find(self, root: Path) -> Iterator[Item]:
        """Left images and depth maps of all flights."""
        flights = ("*/*/*/", "*/*/*/*/")
        images = find_names(root, *(f"{flight}image_left/*_left.png" for flight in flights))
        return pair_up(images, find_names(root, *(f"{flight}depth_left/*_left_depth.npy" for flight in flights)))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy, and the mask of the sky."""
        if item.name.startswith(f"{NEAR_SKY}/"):
            raise BadSample("wrong_sky", f"The sky of {NEAR_SKY} has a depth like the things before it.")
        depth_m = read_npy(read_file(root / item.label))
        label = RawLabel.from_array(depth_m, sky=depth_m > SKY_DEPTH_M)
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})
