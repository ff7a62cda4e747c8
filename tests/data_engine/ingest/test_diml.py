from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_sets import HEIGHT, WIDTH, PrepareSet, cut, write_image, write_png

from data_engine.ingest.diml import DIML
from depth_anything_train.runtime import UserError

MILLIMETRES = np.arange(500, 500 + HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 3
MILLIMETRES[0] = 0
CONFIDENCE = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))  # 0, 36, 73, ..., 255


def make_indoor(root: Path, names: tuple[str, ...] = ("in_1", "in_2", "in_10")) -> Path:
    """As in `2/16.02.02/1` of the raw data."""
    for name in names:
        write_image(root / f"col/{name}_c.png")
        write_png(root / f"up_png/{name}_ud.png", MILLIMETRES)
        write_png(root / f"raw_png/{name}_rd.png", MILLIMETRES // 2)
    return root


def make_outdoor(root: Path, names: tuple[str, ...] = ("out_1", "out_2")) -> Path:
    """As in `170721_C0/A` of the raw data."""
    for name in names:
        write_image(root / f"left/{name}_left.png")
        write_image(root / f"right/{name}_right.png")
        write_png(root / f"depth/{name}_depth.png", MILLIMETRES)
        write_png(root / f"conf/{name}_conf.png", CONFIDENCE)
    return root


def test_diml__indoor_depth_is_in_millimetres_and_untouched(tmp_path: Path, prepare_set: PrepareSet) -> None:
    folder = make_indoor(tmp_path / "raw/indoor/2/16.02.02/1")
    cut(folder / "up_png/in_2_ud.png")
    prepared = prepare_set("diml", tmp_path / "raw", "dataset.part=indoor", "pack_labels=false")
    keys = ["indoor_2_16_02_02_1_in_1", "indoor_2_16_02_02_1_in_10"]
    assert list(prepared.samples) == keys and prepared.info["drops"] == {"damaged_label": 1}
    depth_m = prepared.depth(keys[0])
    assert np.isnan(depth_m[0]).all()
    np.testing.assert_allclose(depth_m[1:], MILLIMETRES[1:] / 1000, rtol=1e-6)
    record = prepared.samples[keys[0]]
    assert record.members["depth.png"] == (folder / "up_png/in_1_ud.png").read_bytes()
    assert record.image == (folder / "col/in_1_c.png").read_bytes()
    assert (record.meta["environment"], record.meta["unit"]) == ("indoor", "m")


def test_diml__outdoor_depth_is_kept_where_it_is_trusted(tmp_path: Path, prepare_set: PrepareSet) -> None:
    folder = make_outdoor(tmp_path / "raw/outdoor/170721_C0/A", ("out_1", "out_2", "out_3", "out_4"))
    (folder / "conf/out_2_conf.png").unlink()
    write_png(folder / "conf/out_3_conf.png", CONFIDENCE.T)
    prepared = prepare_set("diml", tmp_path / "raw")
    keys = ["outdoor_170721_C0_A_out_1", "outdoor_170721_C0_A_out_4"]
    assert list(prepared.samples) == keys
    assert prepared.info["drops"] == {"missing_confidence": 1, "mask_size": 1}
    depth_m = prepared.depth(keys[0])
    trusted = CONFIDENCE >= 153  # 0.6
    assert trusted[0].tolist() == [False] * 5 + [True] * 3
    np.testing.assert_array_equal(np.isnan(depth_m), ~trusted | (MILLIMETRES == 0))
    np.testing.assert_allclose(depth_m[1:, 5:], MILLIMETRES[1:, 5:] / 1000, rtol=1e-6)
    assert prepared.samples[keys[0]].meta["environment"] == "outdoor"


def test_diml__how_much_trust_is_asked_for_is_a_setting(tmp_path: Path, prepare_set: PrepareSet) -> None:
    make_outdoor(tmp_path / "raw/outdoor/170721_C0/A")
    prepared = prepare_set("diml", tmp_path / "raw", "dataset.min_confidence=1")
    assert np.isfinite(prepared.depth("outdoor_170721_C0_A_out_1")).sum() == HEIGHT - 1
    assert prepared.info["settings"]["min_confidence"] == 1
    with pytest.raises(UserError, match="min_confidence from 0 to 1"):
        DIML(str(tmp_path), min_confidence=60)


def test_diml__samples_have_other_folders(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = tmp_path / "sample"
    indoor, outdoor = root / "indoor/train/LR/12", root / "outdoor/train/LR"
    write_image(indoor / "color/a_c.png")
    write_png(indoor / "depth_filled/a_depth_filled.png", MILLIMETRES)
    write_image(outdoor / "outleft/b.png")
    write_png(outdoor / "depthmap/b.png", MILLIMETRES)
    write_png(outdoor / "confidencemap/b.png", CONFIDENCE)
    prepared = prepare_set("diml", root)
    assert list(prepared.samples) == ["indoor_train_LR_12_a", "outdoor_train_LR_b"]
    valid = [np.isfinite(prepared.depth(key)).sum() for key in prepared.samples]
    assert valid == [(HEIGHT - 1) * WIDTH, (HEIGHT - 1) * 3]


def test_diml__parts_are_told_by_their_folders(tmp_path: Path) -> None:
    make_indoor(tmp_path / "16. Billiard Hall/7")
    make_outdoor(tmp_path / "any/A")
    counts = {part: len(DIML(str(tmp_path), part=part).items()) for part in ("all", "indoor", "outdoor")}
    assert counts == {"all": 5, "indoor": 3, "outdoor": 2}
