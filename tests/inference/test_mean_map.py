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


def test_mean_map__predicts_the_same_for_every_image_of_a_size():
    mean_map = MeanMap.from_labels([label(1)])
    first, second = (mean_map.predict(scene(k, 30, 50)[0]).disparity for k in range(2))
    assert first.shape == (30, 50) and (first == second).all()


def test_mean_map__needs_a_valid_pixel():
    disparity, valid = label(0)
    with pytest.raises(UserError, match="none has a valid pixel"):
        MeanMap.from_labels([(disparity, ~valid)])
