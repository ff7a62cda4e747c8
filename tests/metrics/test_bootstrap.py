import numpy as np
import pytest

from depth_anything_train.metrics import bootstrap
from depth_anything_train.metrics.bootstrap import interval, resampled_means


def test_interval__of_a_normal_sample_is_that_of_the_textbook():
    values = np.random.default_rng(0).normal(5, 2, 4000)
    low, high = interval(resampled_means(values, np.ones(4000), seed=0))
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_interval__covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = interval(resampled_means(rng.exponential(1, 60), np.ones(60), seed=3))
        hits += low <= 1 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_resampled_means__are_the_same_at_every_run_and_in_any_chunks(monkeypatch):
    values = np.random.default_rng(2).random(50)
    one = resampled_means(values, np.ones(50), seed=7)
    assert np.array_equal(one, resampled_means(values, np.ones(50), seed=7))
    assert not np.array_equal(one, resampled_means(values, np.ones(50), seed=8))
    monkeypatch.setattr(bootstrap, "CHUNK", 130)
    assert np.array_equal(one, resampled_means(values, np.ones(50), seed=7))


def test_resampled_means__count_by_weight():
    means = resampled_means([100.0, 0.0], [3, 1], seed=0)
    assert set(np.round(means, 9)) == {0.0, 75.0, 100.0}


def test_interval__of_one_image_is_that_image():
    assert interval(resampled_means([0.25], [1], seed=0)) == (0.25, 0.25)
