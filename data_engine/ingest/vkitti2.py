"""Virtual KITTI 2: five drives of KITTI, rendered in ten conditions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.labels import read_png16

CAMERA = pinhole([[725.0087, 0, 620.5], [0, 725.0087, 187]])
"""The same in every intrinsic.txt."""

FARTHEST = 65535
"""The largest code, 655.35 m: the sky, and nothing else in a street."""


@dataclass(frozen=True)
class VirtualKitti2(LabelledSet):
    """Virtual KITTI 2.0.3, 21,260 images of the left camera, https://europe.naverlabs.com/proxy-virtual-worlds-vkitti-2/.

    root/Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
    root/Scene01/clone/frames/depth/Camera_0/depth_00000.png
    and so on: scenes 01, 02, 06, 18, 20, each in ten conditions such as clone, fog, rain, sunset, 15-deg-left.
    The archives vkitti_2.0.3_rgb.tar and vkitti_2.0.3_depth.tar are unpacked into one root, or each into a folder of
    root of its name (root/vkitti_2.0.3_rgb/Scene01/...).

    Licence: CC BY-NC-SA 3.0, so not for commercial use. The label is depth along the optical axis, 16-bit PNG in
    centimetres. 65535 (655.35 m) is the sky: no depth, but a mask. Camera_1 is not used.

    Args:
        root, part, count, seed: as in `LabelledSet`; there are no official splits.
    """

    source = "vkitti2"
    licence = "CC BY-NC-SA 3.0"

    def find(self, root: Path) -> Iterator[Item]:
        """Images and depth maps of Camera_0."""
        images = [f"{below}*/*/frames/rgb/Camera_0/rgb_*.jpg" for below in ("", "vkitti_2.0.3_rgb/")]
        labels = [f"{below}*/*/frames/depth/Camera_0/depth_*.png" for below in ("", "vkitti_2.0.3_depth/")]
        return pair_up(find_names(root, *images), find_names(root, *labels))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image and label as they are, and the mask of the sky."""
        data = read_file(root / item.label)
        sky = read_png16(data) == FARTHEST
        label = RawLabel("depth", "png", data, scale=100, invalid=FARTHEST, sky=sky)
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})
