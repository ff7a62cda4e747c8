import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from depth_anything_train.data.permutation import permute

LIMIT = 0.01


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_permute__visits_every_index_once(length, seed):
    assert sorted(permute(np.arange(length), length, seed, "x", 0).tolist()) == list(range(length))


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 2**40), seed=st.integers(0, 2**32), data=st.data())
def test_permute__one_at_a_time_is_the_same_as_many(length, seed, data):
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5))
    assert [int(permute(p, length, seed)) for p in positions] == permute(positions, length, seed).tolist()


def test_permute__is_injective_anywhere_in_62_million():
    places = permute(np.arange(61_900_000, 62_000_000), 62_000_000, 0, "unlabelled", 0)
    assert len(np.unique(places)) == 100_000
    assert places.min() >= 0 and places.max() < 62_000_000


def test_permute__keeps_the_shape_of_the_positions():
    assert permute(3, 7, 0).shape == ()
    assert permute(np.zeros((2, 3), int), 7, 0).shape == (2, 3)


def test_permute__never_changes():
    """Runs that are continued with a newer version must go on where they were."""
    assert permute(np.arange(10), 10, 0, "labelled", 0).tolist() == [6, 8, 9, 2, 1, 4, 3, 0, 5, 7]
    assert permute(np.arange(4), 62_000_000, 7, "unlabelled", 3).tolist() == [10921348, 39978883, 36477594, 24080212]


@pytest.mark.parametrize("key", [(1, "labelled", 0), (0, "unlabelled", 0), (0, "labelled", 1)])
def test_permute__differs_by_seed_stream_and_epoch(key):
    matches = permute(np.arange(1000), 1000, *key) == permute(np.arange(1000), 1000, 0, "labelled", 0)
    assert matches.sum() < 10  # one match is expected by chance


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_permute__makes_all_orders_of_a_small_set_equally_often(length):
    orders = Counter(tuple(permute(np.arange(length), length, seed).tolist()) for seed in range(1200))
    counts = [orders[order] for order in itertools.permutations(range(length))]
    assert stats.chisquare(counts).pvalue > LIMIT


@pytest.mark.parametrize("length", [16, 37, 64])
def test_permute__puts_every_sample_anywhere_equally_often(length):
    runs = 1500
    table = np.zeros((length, length))
    for seed in range(runs):
        table[np.arange(length), permute(np.arange(length), length, seed)] += 1
    statistic = ((table - runs / length) ** 2 / (runs / length)).sum()
    assert stats.chi2.sf(statistic, (length - 1) ** 2) > LIMIT


@pytest.mark.parametrize("length", [1000, 4096])
def test_permute__neighbours_are_strangers(length):
    """The step from one sample to the next is as in a true shuffle: every non-zero distance equally likely."""
    steps = np.concatenate([np.diff(permute(np.arange(length), length, seed)) % length for seed in range(40)])
    counts = np.bincount(steps, minlength=length)[1:]
    assert stats.chisquare(counts).pvalue > LIMIT
    assert abs(np.corrcoef(np.arange(length), permute(np.arange(length), length, 0))[0, 1]) < 4 / np.sqrt(length)


def test_permute__the_samples_of_a_batch_spread_over_the_set():
    length, batch = 10_000, 100
    order = permute(np.arange(length), length, 3)
    counts = np.stack([np.bincount(part // 1000, minlength=10) for part in order.reshape(-1, batch)])
    assert stats.chi2_contingency(counts).pvalue > LIMIT
