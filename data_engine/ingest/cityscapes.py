"""Cityscapes: streets of 50 cities with fine labels, of which its benchmark judges 19 classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_engine.ingest.labelled import Item, find_names, pair_up
from data_engine.ingest.segmented import SegmentedSet
from depth_anything_train.data.schema import NO_CLASS

CODES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The label ids of the classes that are judged, in the order of their train ids."""

ALL_CODES = (*range(34), 255)
"""Label ids of the data set; the -1 of licence plates is 255 in a file of 8 bits."""


class Cityscapes(SegmentedSet):
    """Cityscapes with fine labels, https://www.cityscapes-dataset.com.

    root/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png          2,975 images, 500 in val
    root/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png

    Licence: Cityscapes terms, non-commercial. Other label ids than those of the 19 classes are neither trained on nor
    judged. The labels of `test` are not public.

    Args:
        root, count, seed: as in `PairedSet`.
        part: `train` or `val`.
    """

    source = "cityscapes"
    licence = "Cityscapes terms (non-commercial)"
    PARTS = ("train", "val")
    CLASS_NAMES = tuple(CODES)

    def find(self, root: Path) -> Iterable[Item]:
        """All images of the part."""
        return pair_up(
            find_names(root, f"leftImg8bit/{self.part}/*/*_leftImg8bit.png"),
            find_names(root, f"gtFine/{self.part}/*/*_gtFine_labelIds.png"),
        )

    def codes(self) -> Mapping[int, int]:
        """Label ids to train ids."""
        return {**dict.fromkeys(ALL_CODES, NO_CLASS), **{code: number for number, code in enumerate(CODES.values())}}
