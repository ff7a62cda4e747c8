"""HR-WSI: stereo photographs from the web, with disparity from optical flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_labels import RawLabel, keep_valid, read_grey8


@dataclass(frozen=True)
class HRWSI(LabelledSet):
    """HR-WSI, 20,378 + 400 photographs, https://kexianhust.github.io/Structure-Guided-Ranking-Loss/.

    root/train/imgs/NAME.jpg
    root/train/gts/NAME.png
    root/train/valid_masks/NAME.png
    and the same in root/val; root is the unpacked folder HR-WSI. Its instance_masks are not used.

    Licence: none that is standard; the owners give it for research, ask them for more. The label is disparity up to
    scale and shift, 8 bits, larger is nearer, and the lowest value is 0. Because its zero is arbitrary and 0 marks
    what is not measured in a shard, 1 is added to all values. Pixels are valid where the mask is not 0; it leaves
    out what the two photographs do not agree on. The lowest disparity, the sky's among it, stays valid where it does.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `train` or `val`.
    """

    part: str = "train"

    source = "hrwsi"
    licence = "custom (HR-WSI, research use)"
    PARTS = ("train", "val")

    def find(self, root: Path) -> Iterator[Item]:
        """Images and disparity maps of the part."""
        images, labels = find_names(root, f"{self.part}/imgs/*.jpg"), find_names(root, f"{self.part}/gts/*.png")
        for item in pair_up(images, labels):
            yield item._replace(extra=(f"{self.part}/valid_masks/{item.name}.png",))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, and disparity + 1 as 16-bit PNG with 0 outside the mask."""
        codes = read_grey8(root / item.label).astype(np.uint16) + np.uint16(1)
        codes = keep_valid(codes, read_grey8(root / item.extra[0]) > 0)
        label = RawLabel.from_codes(codes, scale=1, quantity="disparity", unit="unknown")
        return RawPair(read_file(root / item.image), label)
