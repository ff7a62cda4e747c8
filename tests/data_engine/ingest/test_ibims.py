from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from raw_sets import HEIGHT, WIDTH, Prepared, cut, ramp

from data_engine.ingest.ibims import Ibims
from depth_anything_train.data.images import decode_image
from depth_anything_train.runtime import UserError

# MATLAB's camera matrices are transposed, and its first pixel is (1, 1).
CALIBRATION = np.array([[550.5, 0, 0], [0, 551.5, 0], [4.5, 3.25, 1]])


def photograph(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write_scene(path: Path, seed: int, **others: Any) -> Path:
    """A file of version 5 with the struct `data`, compressed as MATLAB saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    invalid, transparent = np.ones((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    invalid[0, 1], transparent[2, 3] = 0, 0
    depth_m = ramp(1, 10).astype(np.float64)
    depth_m[4, 5] = 0
    data = {"rgb": photograph(seed), "depth": depth_m, "calib": CALIBRATION, "mask_wall": np.zeros((HEIGHT, WIDTH))}
    masks = {"mask_invalid": invalid, "mask_transp": transparent, "edges": np.zeros((HEIGHT, WIDTH))}
    scipy.io.savemat(path, {"data": {**data, **masks, **others}}, do_compression=True)
    return path


def write_ibims(root: Path) -> Path:
    for seed, name in enumerate(("corridor_01", "livingroom_02", "livingroom_10")):
        write_scene(root / "ibims1_core_mat" / f"{name}.mat", seed)
    return root


def test_ibims__depth_in_metres_and_both_masks(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    prepared = prepare_set("ibims", write_ibims(tmp_path / "ibims"))
    assert list(prepared.samples) == ["corridor_01", "livingroom_02", "livingroom_10"]
    expected = np.linspace(1, 10, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    expected[0, 1] = expected[2, 3] = expected[4, 5] = np.nan
    np.testing.assert_allclose(prepared.depth("livingroom_02"), expected, rtol=1e-6)
    np.testing.assert_array_equal(decode_image(prepared.samples["livingroom_02"].image), photograph(1))


def test_ibims__camera_counts_from_0(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    prepared = prepare_set("ibims", write_ibims(tmp_path / "ibims"))
    assert prepared.samples["corridor_01"].meta["camera"] == {"fx": 550.5, "fy": 551.5, "cx": 3.5, "cy": 2.25}


def test_ibims__damaged_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_ibims(tmp_path / "ibims")
    cut(root / "ibims1_core_mat/livingroom_02.mat")
    scipy.io.savemat(root / "ibims1_core_mat/other.mat", {"data": {"rgb": photograph(0)}})
    write_scene(root / "ibims1_core_mat/small_mask.mat", 0, mask_transp=np.ones((2, 2)))
    write_scene(root / "ibims1_core_mat/grey.mat", 0, rgb=np.zeros((HEIGHT, WIDTH), np.uint8))
    prepared = prepare_set("ibims", root, "max_bad_share=0.7")
    assert prepared.info["drops"] == {"damaged_mat": 2, "mask_size": 1, "image_type": 1}
    assert list(prepared.samples) == ["corridor_01", "livingroom_10"]


def test_ibims__an_empty_folder_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root/ibims1_core_mat/corridor_01\.mat"):
        Ibims(str(tmp_path)).items()
