from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_sets import PrepareSet, cut, ramp, write_image, write_npy

from data_engine.ingest.tartanair import TartanAir


def make(root: Path, place: str = "oldtown", count: int = 3) -> Path:
    flight = root / place / "Easy/P001"
    for number in range(count):
        depth_m = ramp(1, 95) + number
        depth_m[0] = 10_000.5
        depth_m[1, 0] = 0
        depth_m[1, 1] = 9_999.5
        for side in ("left", "right"):
            write_image(flight / f"image_{side}/{number:06d}_{side}.png")
            write_npy(flight / f"depth_{side}/{number:06d}_{side}_depth.npy", depth_m)
            write_npy(flight / f"seg_{side}/{number:06d}_{side}_seg.npy", np.ones((6, 8), np.uint8))
    return root


def test_tartanair__depth_in_metres_and_sky_as_a_mask(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "raw")
    cut(root / "oldtown/Easy/P001/depth_left/000001_left_depth.npy")
    prepared = prepare_set("tartanair", root)
    key = "oldtown_Easy_P001_000002"
    assert list(prepared.samples) == ["oldtown_Easy_P001_000000", key]
    assert prepared.info["drops"] == {"damaged_label": 1}
    sky, depth_m = prepared.sky(key), prepared.depth(key)
    assert sky[0].all() and not sky[1:].any()
    assert np.isnan(depth_m[0]).all() and np.isnan(depth_m[1, 0])
    assert depth_m[1, 1] == pytest.approx(9_999.5)
    np.testing.assert_allclose(depth_m[2:], ramp(3, 97)[2:], rtol=1e-6)
    record = prepared.samples[key]
    assert record.image == (root / "oldtown/Easy/P001/image_left/000002_left.png").read_bytes()
    assert record.meta["camera"] == {"fx": 320, "fy": 320, "cx": 319.5, "cy": 239.5}
    assert (record.meta["unit"], record.meta["licence"]) == ("m", "CC BY 4.0")


def test_tartanair__the_place_whose_sky_has_a_depth_is_dropped_and_counted(
    tmp_path: Path, prepare_set: PrepareSet
) -> None:
    root = make(make(tmp_path / "raw"), "amusement", count=2)
    prepared = prepare_set("tartanair", root)
    assert prepared.info["drops"] == {"wrong_sky": 2} and prepared.info["count"] == 3


def test_tartanair__archives_may_be_unpacked_into_a_folder_of_their_own(tmp_path: Path) -> None:
    make(tmp_path / "oldtown", count=1)
    (item,) = TartanAir(str(tmp_path)).items()
    assert item.name == "oldtown/oldtown/Easy/P001/000000"
