from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_sets import PrepareSet, cut, ramp, write, write_exr, write_image

from data_engine.ingest.irs import IRS
from depth_anything_train.runtime import UserError


def make(root: Path, scene: str = "Home/Kitchen_Dark", count: int = 3, size: tuple[int, int] = (6, 8)) -> Path:
    for number in range(1, count + 1):
        write_image(root / scene / f"l_{number}.png", *size)
        write_image(root / scene / f"r_{number}.png", *size)
        disparity = ramp(1, 90, *size) + number
        disparity[0, :2] = 0, np.inf
        write_exr(root / scene / f"d_{number}.exr", G=disparity)
        write_exr(root / scene / f"n_{number}.exr", R=disparity, G=disparity, B=disparity)
    return root


def test_irs__disparity_of_the_left_image_in_pixels(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "IRSDataset", size=(60, 80))
    cut(root / "Home/Kitchen_Dark/d_2.exr")
    prepared = prepare_set("irs", root)
    assert list(prepared.samples) == ["Home_Kitchen_Dark_1", "Home_Kitchen_Dark_3"]
    assert prepared.info["drops"] == {"damaged_label": 1} and prepared.info["notes"] == {"not_finite_pixels": 2}
    disparity = prepared.disparity("Home_Kitchen_Dark_3")
    assert np.isnan(disparity[0, :2]).all()
    np.testing.assert_array_equal(disparity[1:], ramp(1, 90, 60, 80)[1:] + np.float32(3))
    record = prepared.samples["Home_Kitchen_Dark_1"]
    assert record.image == (root / "Home/Kitchen_Dark/l_1.png").read_bytes()
    assert (record.meta["quantity"], record.meta["unit"]) == ("disparity", "px")
    assert record.meta["camera"] == {"fx": 480, "fy": 480, "cx": 479.5, "cy": 269.5}


@pytest.mark.parametrize("below", ["", "IRSDataset/"])
def test_irs__parts_are_the_owners_lists(tmp_path: Path, below: str) -> None:
    root = make(make(tmp_path), "Store/Shop", count=2)
    lines = [
        f"{below}Store/Shop/{{}}_2.{{}}",
        f"{below}Home/Kitchen_Dark/{{}}_3.{{}}",
        f"{below}Office/Gone/{{}}_1.{{}}",
    ]
    kinds = [("l", "png"), ("r", "png"), ("d", "exr"), ("n", "exr")]
    listed = "\n".join(" ".join(line.format(*kind) for kind in kinds) for line in lines)
    write(root / "lists/IRSDataset_TRAIN.list", listed.encode())
    assert [item.name for item in IRS(str(root), part="train").items()] == ["Home/Kitchen_Dark/3", "Store/Shop/2"]
    assert len(IRS(str(root)).items()) == 5
    with pytest.raises(UserError, match="Expected the test list of IRS"):
        IRS(str(root), part="test").items()
