from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.qa.dirty_labels import Limits, examine, measured, outlying, typical_disparity
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.labels import decode_label
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH = 60, 80
DEPTH_M = np.linspace(2, 9, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def npy(stored: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, stored.astype(np.float32))
    return file.getvalue()


def reasons(depth_m: NDArray[Any], unit: str = "m", **limits: float) -> list[str]:
    data, meta = npy(depth_m), {"scale": 1.0, "unit": unit}
    label = decode_label("depth.npy", data, meta)
    return [found.reason for found in examine("depth.npy", data, meta, label, Limits(**limits))]


def marked(count: int, value: float) -> NDArray[np.float32]:
    """A sound label of which the first `count` pixels have another value."""
    depth_m = DEPTH_M.copy()
    depth_m.reshape(-1)[:count] = value
    return depth_m


def test_examine__a_sound_label_is_not_dirty() -> None:
    assert reasons(DEPTH_M) == []


def test_examine__few_negative_values_pass_and_many_do_not() -> None:
    few = DEPTH_M.size // 100
    depth_m = DEPTH_M.copy()
    depth_m.flat[:few] *= -1
    assert reasons(depth_m) == []
    depth_m.flat[few] *= -1
    assert reasons(depth_m) == ["negative_values"]
    assert reasons(depth_m, max_negative=0.5) == []


def test_examine__negative_marks_of_what_was_not_measured_are_no_values() -> None:
    depth_m = marked(1000, -1)
    depth_m.flat[:300] = -2
    assert reasons(depth_m) == []


def test_examine__hardly_a_valid_pixel_is_nearly_empty() -> None:
    sparse = np.zeros_like(DEPTH_M)
    for count, expected in ((5, []), (4, ["nearly_empty"])):  # of 4800
        sparse[:] = 0
        sparse.reshape(-1)[:: DEPTH_M.size // count] = DEPTH_M.reshape(-1)[:: DEPTH_M.size // count]
        assert reasons(sparse) == expected
    assert reasons(sparse, min_valid=0) == []


def test_examine__one_depth_with_stray_pixels_is_constant() -> None:
    wall = np.full_like(DEPTH_M, 3)
    assert reasons(wall) == ["constant_label"]
    wall.reshape(-1)[:90] = 7  # fewer than 2 %
    assert reasons(wall) == ["constant_label"]
    assert reasons(DEPTH_M, min_range=2) == ["constant_label"]


def test_examine__sky_alone_is_constant_and_sky_beside_something_is_ignored() -> None:
    sky = np.zeros_like(DEPTH_M)
    label = encode_dz16(sky, np.ones(sky.shape, bool))
    found = list(examine("disparity.dz16", label, {}, decode_label("disparity.dz16", label, {}), Limits()))
    assert [one.reason for one in found] == ["constant_label"]
    sky[-10:] = 1 / DEPTH_M[-10:]
    label = encode_dz16(sky, np.ones(sky.shape, bool))
    assert not list(
        examine("disparity.dz16", label, {"unit": "m"}, decode_label("disparity.dz16", label, {}), Limits())
    )


@pytest.mark.parametrize("factor", [1000, 1 / 1000])
def test_examine__metres_that_no_photograph_has_are_implausible(factor: float) -> None:
    assert reasons(DEPTH_M * factor) == ["implausible_scale"]
    assert reasons(DEPTH_M * factor, unit="unknown") == []
    assert reasons(DEPTH_M * factor, farthest_m=1e6, nearest_m=0) == []


def test_outlying__a_label_in_another_unit_is_found_with_its_factor() -> None:
    typical = np.random.default_rng(0).lognormal(-1, 0.4, 200)
    assert not outlying(typical, Limits()).any()
    typical[7] = np.median(typical) * 1000
    typical[9] = np.median(typical) / 256
    factors = outlying(typical, Limits())
    assert np.flatnonzero(factors).tolist() == [7, 9]
    assert factors[[7, 9]] == pytest.approx([1000, 256], rel=0.01)


def test_outlying__the_wider_a_data_set_the_wider_its_limits() -> None:
    typical = np.random.default_rng(0).lognormal(-1, 2.0, 200)
    typical[7] = np.median(typical) * 100
    assert not outlying(typical, Limits()).any()
    assert outlying(typical, Limits(scale_sigmas=2))[7]


def test_outlying__a_factor_of_two_is_never_odd_and_few_labels_judge_nobody() -> None:
    typical = np.ones(100)
    typical[3] = 2
    assert not outlying(typical, Limits()).any()
    typical[3] = 1000
    assert outlying(typical, Limits())[3]
    assert not outlying(typical[:19], Limits()).any()


def test_typical_disparity__is_the_median_of_large_labels_too() -> None:
    disparity = np.random.default_rng(0).uniform(1, 2, (1000, 1000)).astype(np.float32)
    valid = disparity > 1.2
    assert measured((disparity, valid)).size <= 50_000
    assert typical_disparity((disparity, valid)) == pytest.approx(np.median(disparity[valid]), rel=0.01)
    assert typical_disparity((disparity, np.zeros_like(valid))) is None


@pytest.mark.parametrize(
    "limits", [{"min_valid": 2}, {"nearest_m": 9, "farthest_m": 3}, {"scale_factor": 1}, {"mismatch": -1}]
)
def test_limits__that_cannot_be_met_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UserError, match="limits"):
        Limits(**limits)
