"""DIML/CVL RGB-D: rooms seen by a Kinect v2, and places outside seen by a stereo camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_labels import RawLabel, keep_valid, read_grey8
from depth_anything_train.data.labels import read_png16
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

MILLIMETRES = 1000.0


@dataclass(frozen=True)
class DIML(LabelledSet):
    """DIML/CVL RGB-D, 2 million frames in all, https://dimlrgbd.github.io/; the raw data and the samples.

    indoor, raw data:   root/.../col/NAME_c.png      root/.../up_png/NAME_ud.png
    indoor, sample:     root/.../color/NAME_c.png    root/.../depth_filled/NAME_depth_filled.png
    outdoor, raw data:  root/.../left/NAME_left.png  root/.../depth/NAME_depth.png  root/.../conf/NAME_conf.png
    outdoor, sample:    root/.../outleft/NAME.png    root/.../depthmap/NAME.png     root/.../confidencemap/NAME.png
    The folders above these differ from archive to archive and may be any (root/outdoor/170721_C0/A/left/...). Samples
    come in two sizes, HR and LR: let root hold one of them.

    Licence: the owners' own terms, for research. The label is depth along the optical axis, 16-bit PNG in millimetres;
    0 is not measured. Indoor maps are the owners' dense ones, upsampled to the colour image with holes filled, bytes
    unchanged (`raw_png` and `warp_png` are not used). Outdoor maps were computed by stereo matching, and pixels whose
    confidence (8-bit PNG, 255 = 1) is below `min_confidence` become 0. The right images are not used.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `all`, `indoor` or `outdoor`; which of them the paper's 927 thousand are is not known.
        min_confidence: from 0 to 1. The default is ours.
    """

    min_confidence: float = 0.6

    source = "diml"
    licence = "custom (DIML, research use)"
    PARTS = ("all", "indoor", "outdoor")

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise UserError(f"Expected a min_confidence from 0 to 1, but got {self.min_confidence}.")

    def find(self, root: Path) -> Iterator[Item]:
        """Frames of the part; an outdoor one has its confidence map as `extra`."""
        if self.part in ("all", "indoor"):
            upsampled = find_names(root, "**/up_png/*.png")
            labels = {re.sub(r"_[a-z]+$", "", name): path for name, path in upsampled.items()}
            labels |= find_names(root, "**/depth_filled/*_depth_filled.png")
            yield from pair_up(find_names(root, "**/col/*_c.png", "**/color/*_c.png"), labels)
        if self.part in ("all", "outdoor"):
            images = find_names(root, "**/left/*_left.png", "**/outleft/*.png")
            labels = find_names(root, "**/depth/*_depth.png", "**/depthmap/*.png")
            confidences = find_names(root, "**/conf/*_conf.png", "**/confidencemap/*.png")
            for item in pair_up(images, labels):
                yield item._replace(extra=(confidences.get(item.name, ""),))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as 16-bit PNG."""
        data = read_file(root / item.label)
        codes = read_png16(data)
        label = RawLabel("depth", "png", data, scale=MILLIMETRES)
        if item.extra:
            if not item.extra[0]:
                raise BadSample(
                    "missing_confidence", "Its confidence map is missing; was that archive unpacked as well?"
                )
            trusted = read_grey8(root / item.extra[0]) >= 255 * self.min_confidence
            label = RawLabel.from_codes(keep_valid(codes, trusted), scale=MILLIMETRES)
        meta = {"environment": "outdoor" if item.extra else "indoor"}
        return RawPair(read_file(root / item.image), label, meta)
