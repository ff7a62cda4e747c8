from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from raw_sets import HEIGHT, WIDTH, Prepared, cut, ramp, write, write_image, write_npy

from data_engine.ingest.diode import Diode, read_map
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def write_scan(root: Path, part: str, place: str, scene: int, scan: int) -> Path:
    """One image as the archives have it: depth float32 (H, W, 1), mask float64 (H, W); returns its path less `.png`."""
    name = f"{scene:05d}_{scan:05d}_{place}_000_010"
    stem = root / part / place / f"scene_{scene:05d}" / f"scan_{scan:05d}" / name
    write_image(stem.with_name(f"{name}.png"))
    mask = np.ones((HEIGHT, WIDTH))
    mask[1, 2:5] = 0
    write_npy(stem.with_name(f"{name}_depth.npy"), ramp(scene + 1, 300)[..., None])
    write_npy(stem.with_name(f"{name}_depth_mask.npy"), mask)
    return stem


def write_diode(root: Path) -> Path:
    for part, place, scene, scan in (
        ("val", "indoors", 19, 183),
        ("val", "outdoor", 22, 193),
        ("train", "outdoor", 0, 2),
    ):
        write_scan(root, part, place, scene, scan)
    return root


def test_diode__depth_in_metres_and_invalid_outside_the_mask(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    prepared = prepare_set("diode", write_diode(tmp_path / "diode"))
    assert list(prepared.samples) == ["00019_00183_indoors_000_010", "00022_00193_outdoor_000_010"]
    expected = np.linspace(20, 300, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    expected[1, 2:5] = np.nan
    np.testing.assert_allclose(prepared.depth("00019_00183_indoors_000_010"), expected, rtol=1e-5)
    meta = prepared.samples["00019_00183_indoors_000_010"].meta
    assert meta["camera"] == {"fx": 886.81, "fy": 927.06, "cx": 512.0, "cy": 384.0}
    assert (meta["licence"], meta["unit"]) == ("MIT", "m")


def test_diode__part_and_place(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_diode(tmp_path / "diode")
    prepared = prepare_set("diode", root, "dataset.place=outdoor")
    assert list(prepared.samples) == ["00022_00193_outdoor_000_010"] and prepared.info["settings"]["place"] == "outdoor"
    assert [item.name for item in Diode(str(root), part="train").items()] == ["00000_00002_outdoor_000_010"]


def test_diode__damaged_and_missing_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_diode(tmp_path / "diode")
    cut(write_scan(root, "val", "indoors", 30, 1).with_name("00030_00001_indoors_000_010_depth.npy"))
    write_scan(root, "val", "indoors", 30, 2).with_name("00030_00002_indoors_000_010_depth_mask.npy").unlink()
    write_npy(
        write_scan(root, "val", "indoors", 30, 3).with_name("00030_00003_indoors_000_010_depth_mask.npy"),
        np.ones((2, 2)),
    )
    prepared = prepare_set("diode", root, "max_bad_share=0.7")
    assert prepared.info["drops"] == {"damaged_label": 1, "unreadable_file": 1, "mask_size": 1}


@pytest.mark.parametrize("stored", [np.ones((2, 3, 4)), np.ones(6), np.array([["a"]])])
def test_read_map__refuses_what_is_no_map(tmp_path: Path, stored: NDArray[Any]) -> None:
    write_npy(tmp_path / "a.npy", stored)
    with pytest.raises(BadSample) as caught:
        read_map(tmp_path / "a.npy")
    assert caught.value.reason == "label_type"


def test_read_map__never_unpickles_and_believes_no_header(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object))
    np.save(tmp_path / "small.npy", np.ones((2, 3)))
    huge = (tmp_path / "small.npy").read_bytes().replace(b"(2, 3), }      ", b"(99999, 99999),}")
    write(tmp_path / "huge.npy", huge)
    for name in ("objects.npy", "huge.npy"):
        with pytest.raises(BadSample) as caught:
            read_map(tmp_path / name)
        assert caught.value.reason == "damaged_label"


def test_diode__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root/val/indoors"):
        Diode(str(tmp_path)).items()
    with pytest.raises(UserError, match="indoors or outdoor"):
        Diode(str(tmp_path), place="outdoors")
