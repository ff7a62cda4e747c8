from __future__ import annotations

from pathlib import Path

import numpy as np
from raw_sets import HEIGHT, WIDTH, PrepareSet, cut, write_image, write_png

from data_engine.ingest.hrwsi import HRWSI

DISPARITY = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 5
MASK = np.tile(np.repeat(np.array([255, 0], np.uint8), [6, WIDTH - 6]), (HEIGHT, 1))


def make(root: Path, part: str = "train", names: tuple[str, ...] = ("1", "2", "10")) -> Path:
    for name in names:
        write_image(root / part / f"imgs/{name}.jpg")
        write_png(root / part / f"gts/{name}.png", DISPARITY)
        write_png(root / part / f"valid_masks/{name}.png", MASK)
        write_png(root / part / f"instance_masks/{name}.png", MASK)
    return root


def test_hrwsi__disparity_is_shifted_by_one_and_masked(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "HR-WSI")
    cut(root / "train/gts/2.png")
    prepared = prepare_set("hrwsi", root)
    assert list(prepared.samples) == ["1", "10"] and prepared.info["drops"] == {"damaged_label": 1}
    disparity = prepared.disparity("10")
    assert np.isnan(disparity[:, 6:]).all()
    np.testing.assert_array_equal(disparity[:, :6], DISPARITY[:, :6].astype(np.float32) + 1)
    meta = prepared.samples["1"].meta
    assert (meta["quantity"], meta["unit"], meta["source"]) == ("disparity", "unknown", "hrwsi")
    assert prepared.samples["1"].image == (root / "train/imgs/1.jpg").read_bytes()


def test_hrwsi__the_lowest_disparity_is_valid_where_the_mask_says_so(tmp_path: Path, prepare_set: PrepareSet) -> None:
    prepared = prepare_set("hrwsi", make(tmp_path / "HR-WSI", names=("1",)))
    assert DISPARITY[0, 0] == 0 and prepared.disparity("1")[0, 0] == 1


def test_hrwsi__a_missing_or_wrong_mask_drops_the_image(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "HR-WSI", names=("1", "2", "3", "4"))
    (root / "train/valid_masks/1.png").unlink()
    write_png(root / "train/valid_masks/2.png", MASK.T)
    assert prepare_set("hrwsi", root).info["drops"] == {"unreadable_file": 1, "mask_size": 1}


def test_hrwsi__parts_are_folders(tmp_path: Path) -> None:
    root = make(make(tmp_path), "val", names=("7",))
    assert [item.name for item in HRWSI(str(root), part="val").items()] == ["7"]
    assert [item.name for item in HRWSI(str(root)).items()] == ["1", "2", "10"]
