"""BlendedMVS and BlendedMVG: photographs blended with renderings of their reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel, read_label_file

VALIDATION = frozenset(
    {
        "5b7a3890fc8fcf6781e2593a",
        "5c189f2326173c3a09ed7ef3",
        "5b950c71608de421b1e7318f",
        "5a6400933d809f1d8200af15",
        "59d2657f82ca7774b1ec081d",
        "5ba19a8a360c7c30c1c169df",
        "59817e4a1bd4b175e7038d19",
    }
)
"""Projects of the owners' validation_list.txt."""


@dataclass(frozen=True)
class BlendedMVS(LabelledSet):
    """BlendedMVS (17 thousand images) or all of BlendedMVG (115 thousand), https://github.com/YoYo000/BlendedMVS.

    root/.../PROJECT/blended_images/00000000.jpg         and 00000000_masked.jpg, which is not used
    root/.../PROJECT/rendered_depth_maps/00000000.pfm
    root/.../PROJECT/cams/00000000_cam.txt
    The archives of BlendedMVS, BlendedMVS+ and BlendedMVS++, in low or in high resolution, are unpacked into root or
    into folders below it.

    Licence: CC BY 4.0. The label is the depth of a textured mesh along the optical axis, rendered at the size of the
    image, in a unit of each project's own. 0 is where the mesh has no surface: background, sky, holes. The images
    keep their background (`_masked` ones are black there). An image whose mesh is out of sight has no valid pixel and
    is dropped.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `all`, which the paper trains on, `val` (the owners' 7 projects for validation) or `train` (the others).
    """

    source = "blendedmvs"
    licence = "CC BY 4.0"
    PARTS = ("all", "train", "val")

    def find(self, root: Path) -> Iterator[Item]:
        """Images and depth maps of the part's projects."""
        images = find_names(root, "**/blended_images/*.jpg")
        images = {name: path for name, path in images.items() if not name.endswith("_masked")}
        for item in pair_up(images, find_names(root, "**/rendered_depth_maps/*.pfm")):
            *_, project, _ = (root.resolve().name, *item.name.split("/"))  # root may be a project itself
            if self.part == "all" or (self.part == "val") == (project in VALIDATION):
                yield item

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy, and the camera where its file is there."""
        codec, data, notes = read_label_file(root / item.label)
        label = RawLabel("depth", codec, data, unit="unknown", notes=notes)
        image_file = root / item.image
        camera_file = image_file.parents[1] / "cams" / f"{image_file.stem}_cam.txt"
        camera = read_camera(read_file(camera_file)) if camera_file.is_file() else None
        return RawPair(read_file(image_file), label, {"camera": camera})


def read_camera(text: bytes) -> dict[str, float] | None:
    """The camera of MVSNet's cam.txt: nine numbers behind the word `intrinsic`; None if they are not there."""
    try:
        matrix = np.array(text.partition(b"intrinsic")[2].split()[:9], dtype=np.float64).reshape(3, 3)
    except ValueError:
        return None
    return pinhole(matrix)
