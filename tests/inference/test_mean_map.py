import numpy as np
import pytest
from scenes import scene

from depth_anything_train.inference.mean_map import GRID, MeanMap
from depth_anything_train.runtime import UserError


def label(number):
    disparity = scene(number, *GRID)[1]
    return disparity, np.ones(disparity.shape, bool)


def test_mean_map__is_the_mean_of_normalised_labels():
    labels = [label(k) for k in range(4)]
    normalised = []
    for disparity, _ in labels:
        median = np.sort(disparity.ravel())[(disparity.size - 1) // 2]
        normalised.append((disparity - median) / np.abs(disparity - median).mean())
    assert MeanMap.from_labels(labels).mean == pytest.approx(np.mean(normalised, axis=0), abs=1e-4)


def test_mean_map__does_not_see_scale_and_shift_of_a_label():
    labels = [label(k) for k in range(3)]
    other = [(disparity * (k + 2) + k, valid) for k, (disparity, valid) in enumerate(labels)]
    assert MeanMap.from_labels(labels).mean == pytest.approx(MeanMap.from_labels(other).mean, abs=1e-3)


def test_mean_map__invalid_pixels_do_not_count():
    disparity, _ = label(0)
    holes = np.random.default_rng(0).random(disparity.shape) < 0.3
    poisoned = np.where(holes, np.nan, disparity).astype(np.float32)
    clean = MeanMap.from_labels([(disparity, ~holes)])
    assert (MeanMap.from_labels([(poisoned, ~holes)]).mean == clean.mean).all()
    assert np.isfinite(clean.mean).all()
    assert MeanMap.from_labels([(disparity, ~holes), (poisoned, np.zeros_like(holes))]).hash == clean.hash


def test_mean_map__predicts_the_same_for_every_image():
    mean_map = MeanMap.from_labels([label(1)])
    first, second = mean_map.forward([scene(k, 30, 50)[0] for k in range(2)])
    assert first.shape == GRID and (first == second).all()


def test_mean_map__needs_a_valid_pixel():
    disparity, valid = label(0)
    with pytest.raises(UserError, match="none has a valid pixel"):
        MeanMap.from_labels([(disparity, ~valid)])


def test_in_metres__no_other_constant_map_has_a_smaller_abs_rel():
    rng = np.random.default_rng(0)
    labels = [(1 / rng.uniform(1, 50, GRID).astype(np.float32), rng.random(GRID) < 0.8) for _ in range(9)]
    best = 1 / MeanMap.in_metres(labels, farthest_m=40).mean

    def abs_rel(depth_m):
        errors = [np.abs(depth_m * d - 1)[valid & (d >= 1 / 40)] for d, valid in labels]
        return np.concatenate(errors).mean()

    for factor in (0.9, 0.99, 1.01, 1.1):
        assert abs_rel(best) < abs_rel(best * factor)
    assert abs_rel(best) < abs_rel(np.full(GRID, 10.0))


def test_in_metres__predicts_metres():
    disparity = np.full((20, 30), 0.25, np.float32)
    model = MeanMap.in_metres([(disparity, np.ones((20, 30), bool))], farthest_m=40)
    assert model.kind == "metric" and np.allclose(model.forward([np.zeros((5, 6, 3), np.uint8)])[0], 4)


def test_in_metres__labels_without_a_near_pixel_are_refused():
    with pytest.raises(UserError, match="up to 40 m"):
        MeanMap.in_metres([(np.full((4, 4), 0.001, np.float32), np.ones((4, 4), bool))], farthest_m=40)
