"""MegaDepth: photographs of landmarks from the web, with depth from structure from motion and multi-view stereo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_labels import RawLabel, read_h5
from depth_anything_train.data.schema import BadSample

BELOW_ROOT = ("", "MegaDepth_v1/", "phoenix/S6/zl548/MegaDepth_v1/")
"""Where the scenes are: root is the folder of scenes, or the one that MegaDepth_v1.tar.gz was unpacked in."""


@dataclass(frozen=True)
class MegaDepth(LabelledSet):
    """MegaDepth v1, 128 thousand photographs of 196 places, https://www.cs.cornell.edu/projects/megadepth/.

    root/phoenix/S6/zl548/MegaDepth_v1/0000/dense0/imgs/NAME.jpg       jpg, JPG or png
    root/phoenix/S6/zl548/MegaDepth_v1/0000/dense0/depths/NAME.h5      with one data set, `depth`
    This is how MegaDepth_v1.tar.gz unpacks; root may also be the folder MegaDepth_v1 itself.

    Licence: CC BY 4.0 for the depth maps; each photograph keeps the licence of its owner on Flickr. The label is depth
    along the optical axis in a unit of each reconstruction's own. 0 is not measured, the sky among it. About a fifth
    of the maps hold no depth but order: negative codes for a region in front or behind. Such maps are dropped as
    `ordinal_label`; where a map has both, the negative pixels are invalid.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `all`; the owners' lists are pickles, which are not read.
    """

    source = "megadepth"
    licence = "CC BY 4.0 (depth; photographs: their owners')"

    def find(self, root: Path) -> Iterator[Item]:
        """Photographs and depth maps of all scenes."""
        scenes = [f"{below}*/dense*/" for below in BELOW_ROOT]
        images = [f"{scene}imgs/*.{extension}" for scene in scenes for extension in ("jpg", "JPG", "png")]
        return pair_up(find_names(root, *images), find_names(root, *(f"{scene}depths/*.h5" for scene in scenes)))

    def read(self, root: Path, item: Item) -> RawPair:
        """Photograph as it is, depth as float32 npy."""
        stored = read_h5(root / item.label, "depth")
        if stored.min() < 0 and not (stored > 0).any():
            raise BadSample("ordinal_label", "The map holds the order of regions, no depth.")
        return RawPair(read_file(root / item.image), RawLabel.from_array(stored, unit="unknown"))
