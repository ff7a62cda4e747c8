"""IRS: rendered stereo pairs of homes, offices, restaurants and stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_engine.ingest.base import read_file, stem
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole, read_lines
from data_engine.ingest.raw_labels import RawLabel, read_exr

CAMERA = pinhole([[480, 0, 480], [0, 480, 270]], first_pixel=0.5)
"""Focal length as in the owners' loader; images are 960 x 540, and the axis of a rendered camera is their middle."""


@dataclass(frozen=True)
class IRS(LabelledSet):
    """IRS (Indoor Robotics Stereo), 103,316 rendered pairs, https://github.com/HKBU-HPML/IRS.

    root/Home/SCENE/l_1.png        left image; r_1.png and n_1.exr beside it are not used
    root/Home/SCENE/d_1.exr        its disparity
    and the same in root/Office, root/Restaurant, root/Store; root is the folder IRSDataset.
    For part=train or part=test also root/lists/IRSDataset_TRAIN.list and IRSDataset_TEST.list, from the repository.

    Licence: none stated. The label is the disparity of the stereo pair in pixels, float32, one channel; it is stored
    as it is, for depth would need the baseline. 0, negative and not finite values are not measured.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `all`, which the paper trains on, or `train` or `test` of the owners' lists.
    """

    source = "irs"
    licence = "none stated (research use)"
    PARTS = ("all", "train", "test")

    def find(self, root: Path) -> Iterator[Item]:
        """Left images and disparity maps that the part's list names, or all there are."""
        items = pair_up(find_names(root, "*/*/l_*.png"), find_names(root, "*/*/d_*.exr"))
        if self.part == "all":
            return items
        lines = read_lines(root / "lists" / f"IRSDataset_{self.part.upper()}.list", what=f"the {self.part} list of IRS")
        left = ("/".join(line.split()[0].split("/")[-3:]) for line in lines)  # some lists begin with IRSDataset/
        wanted = {stem(path).replace("/l_", "/") for path in left}
        return (item for item in items if item.name in wanted)

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, disparity as float32 npy."""
        label = RawLabel.from_array(read_exr(root / item.label), quantity="disparity", unit="px")
        return RawPair(read_file(root / item.image), label, {"camera": CAMERA})
