import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from depth_anything_train.data.order import BlockShuffle, Mixture, Shuffle, Slot, StepBatches, Stream, make_order
from depth_anything_train.data.permutation import permute
from depth_anything_train.runtime import UserError

LIMIT = 0.01
STREAMS = {"labelled": Stream(Shuffle(13), slots=4), "unlabelled": Stream(Shuffle(101), slots=8)}
COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any)


def sequence(order, length, *key):
    """Epoch and index at the positions 0 to `length`."""
    return order(np.arange(length), *key)


# -- Orders. ----------------------------------------------------------------------------------------------------------


def test_shuffle__is_the_permutation_of_its_epoch():
    epochs, indices = sequence(Shuffle(10), 30, 5, "labelled")
    assert epochs.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for epoch in range(3):
        expected = permute(np.arange(10), 10, 5, "labelled", epoch)
        assert (indices[10 * epoch : 10 * epoch + 10] == expected).all()


@settings(deadline=None, max_examples=60)
@given(counts=COUNTS, group=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_block_shuffle__uses_every_sample_once_an_epoch(counts, group, seed):
    total = sum(counts)
    epochs, indices = sequence(BlockShuffle(counts, group), 2 * total, seed, "x")
    for epoch in range(2):
        assert sorted(indices[epochs == epoch].tolist()) == list(range(total))


@settings(deadline=None, max_examples=40)
@given(counts=COUNTS, group=st.integers(1, 50), data=st.data())
def test_block_shuffle__one_at_a_time_is_the_same_as_many(counts, group, data):
    order = BlockShuffle(counts, group)
    positions = data.draw(st.lists(st.integers(0, 3 * sum(counts)), min_size=1, max_size=6))
    whole = order(np.array(positions), 0, "x")
    for place, position in enumerate(positions):
        assert [int(part[0]) for part in order(np.array([position]), 0, "x")] == [int(part[place]) for part in whole]


@pytest.mark.parametrize(("shards", "group"), [(40, 10), (47, 10), (9, 10), (19, 10), (20, 1)])
def test_block_shuffle__reads_few_shards_at_a_time(shards, group):
    """The places of a group, one after the other, are in at least `group` shards and fewer than twice as many."""
    _, indices = sequence(BlockShuffle([25] * shards, group), 25 * shards, 3, "x")
    num_groups = max(shards // group, 1)
    bounds = [25 * (number * shards // num_groups) for number in range(num_groups + 1)]
    seen = [set((indices[start:end] // 25).tolist()) for start, end in itertools.pairwise(bounds)]
    assert sum(map(len, seen)) == shards and len(set().union(*seen)) == shards
    assert all(min(group, shards) <= len(part) < 2 * group for part in seen)


def test_block_shuffle__each_epoch_has_other_groups():
    _, indices = sequence(BlockShuffle([10] * 100, 10), 2000, 0, "x")
    first, second = (set(indices[start : start + 100] // 10) for start in (0, 1000))
    assert len(first & second) < 6  # one is expected by chance
    assert (indices[:1000] == indices[1000:]).sum() < 10


def test_block_shuffle__finds_any_position_of_62_million():
    order = BlockShuffle([10_000] * 6200, 10)
    epochs, indices = order(np.arange(10 * 62_000_000 - 500, 10 * 62_000_000 + 500), 0, "unlabelled")
    assert epochs.tolist() == [9] * 500 + [10] * 500
    assert all(len(np.unique(indices[epochs == epoch])) == 500 for epoch in (9, 10))


@settings(deadline=None, max_examples=60)
@given(
    folders=st.lists(COUNTS, min_size=1, max_size=4),
    shards=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_mixture__has_exact_shares_and_whole_epochs(folders, shards, seed, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(folders), max_size=len(folders)))
    period = sum(weights)
    epochs, indices = sequence(make_order(folders, name="x", weights=weights, shards=shards), 40 * period, seed, "x")
    starts = np.cumsum([0, *map(sum, folders)])
    sources = np.searchsorted(starts, indices, side="right") - 1
    for part in sources.reshape(40, period):
        assert np.bincount(part, minlength=len(weights)).tolist() == weights
    for source, counts in enumerate(folders):
        here = Counter(zip(epochs[sources == source].tolist(), indices[sources == source].tolist(), strict=True))
        assert set(here.values()) == {1}
        done = 40 * weights[source] // sum(counts)
        assert all(sum(epoch == e for e, _ in here) == sum(counts) for epoch in range(done))


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.integers(1, 400), min_size=2, max_size=3), data=st.data())
def test_mixture__one_at_a_time_is_the_same_as_many(weights, data):
    order = Mixture([Shuffle(7), BlockShuffle([5, 6, 7], 2), Shuffle(1000)][: len(weights)], weights, name="x")
    positions = data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
    whole = order(np.array(positions), 0, "x")
    for place, position in enumerate(positions):
        assert [int(part[0]) for part in order(np.array([position]), 0, "x")] == [int(part[place]) for part in whole]


def test_mixture__shares_stand_in_random_order():
    """Which source comes next says nothing about the one after it, beyond what exact shares say."""
    period, rounds = 6, 4000
    _, indices = sequence(Mixture([Shuffle(50), Shuffle(50)], [4, 2], name="x"), period * rounds, 1, "x")
    patterns = Counter(tuple(part.tolist()) for part in (indices >= 50).reshape(rounds, period))
    assert len(patterns) == 15  # 6 over 2
    assert stats.chisquare(list(patterns.values())).pvalue > LIMIT


def test_make_order__without_weights_folders_are_one():
    folders = [[3, 4], [5]]
    for one, other in zip(sequence(make_order(folders, name="x"), 24, 0), sequence(Shuffle(12), 24, 0), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1], [0.5, 0.5], [True, 1], 2, "12"])
def test_make_order__refuses_weights_that_do_not_fit(weights):
    with pytest.raises(UserError, match=r"data\.weights\.labelled .* each of 2 folders"):
        make_order([[3], [4]], name="labelled", weights=weights)


def test_make_order__refuses_a_weight_for_nothing():
    with pytest.raises(UserError, match="one is empty"):
        make_order([[3], [0]], name="labelled", weights=[1, 1])


@pytest.mark.parametrize("shards", [0, -1, 2.5, "ten"])
def test_make_order__refuses_groups_that_are_no_number(shards):
    with pytest.raises(UserError, match=r"data\.shuffle_shards"):
        make_order([[3]], name="labelled", shards=shards)


# -- A shuffle cannot be told from a random one, within what a block shuffle says of itself. ---------------------------


@pytest.mark.parametrize(
    "order", [BlockShuffle([16] * 4, 4), BlockShuffle([5, 9, 2, 16, 4, 12, 16], 10)], ids=["even", "uneven"]
)
def test_block_shuffle__inside_a_group_every_sample_is_anywhere_equally_often(order):
    length, runs = len(order), 1500
    table = np.zeros((length, length))
    for seed in range(runs):
        table[np.arange(length), sequence(order, length, seed)[1]] += 1
    statistic = ((table - runs / length) ** 2 / (runs / length)).sum()
    assert stats.chi2.sf(statistic, (length - 1) ** 2) > LIMIT


def test_block_shuffle__neighbours_are_strangers():
    """The step from one sample to the next inside a group: every non-zero distance equally likely."""
    order = BlockShuffle([100] * 10, 10)
    steps = np.concatenate([np.diff(sequence(order, 1000, seed)[1]) % 1000 for seed in range(40)])
    assert stats.chisquare(np.bincount(steps, minlength=1000)[1:]).pvalue > LIMIT


def test_block_shuffle__any_two_shards_meet_as_often_as_in_a_random_grouping():
    order, runs = BlockShuffle([4] * 30, 10), 1500
    together = np.zeros((3, 3))
    for seed in range(runs):
        group_of = np.empty(30, int)
        group_of[sequence(order, 120, seed)[1] // 4] = np.repeat(range(3), 40)
        together[group_of[0], group_of[1]] += 1
    expected = runs / 3 * np.where(np.eye(3, dtype=bool), 9 / 29, 10 / 29)
    assert stats.chisquare(together.ravel(), expected.ravel()).pvalue > LIMIT


def test_mixture__inside_a_source_neighbours_are_strangers():
    order = Mixture([Shuffle(500), Shuffle(100)], [2, 1], name="x")
    steps = []
    for seed in range(60):
        indices = sequence(order, 750, seed)[1]
        steps.append(np.diff(indices[indices < 500]) % 500)
    assert stats.chisquare(np.bincount(np.concatenate(steps), minlength=500)[1:]).pvalue > LIMIT


# -- Batches. ---------------------------------------------------------------------------------------------------------


MIXED = {
    "labelled": Stream(make_order([[6, 7], [3, 1, 2]], name="labelled", weights=[2, 1]), slots=4),
    "unlabelled": Stream(make_order([[9] * 11, [4] * 5], name="unlabelled", weights=[1, 3], shards=4), slots=8),
}
KINDS = pytest.mark.parametrize("streams", [STREAMS, MIXED], ids=["plain", "mixed"])


def batches(streams=STREAMS, **options):
    return list(StepBatches(streams, **{"steps": 12, "seed": 5, **options}))


def test_step_batches__follow_the_formula():
    for step, batch in enumerate(batches()):
        expected = []
        for name, (order, slots) in STREAMS.items():
            length = len(order)
            for position in range(slots):
                epoch, place = divmod(step * slots + position, length)
                index = int(permute(place, length, 5, name, epoch))
                expected.append(Slot(name, epoch, index, step, position))
        assert batch == expected


def test_step_batches__use_every_sample_once_an_epoch():
    slots = [slot for batch in batches(steps=13 * 101) for slot in batch]
    seen = Counter((slot.stream, slot.epoch, slot.index) for slot in slots)
    assert set(seen.values()) == {1}
    assert len(seen) == 13 * 101 * 12


@KINDS
@pytest.mark.parametrize("world_size", [2, 4])
def test_step_batches__ranks_share_the_global_batch(streams, world_size):
    shares = [batches(streams, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(batches(streams)):
        for name in streams:
            joined = [slot for share in shares for slot in share[step] if slot.stream == name]
            assert joined == [slot for slot in whole if slot.stream == name]


@KINDS
@pytest.mark.parametrize(("world_size", "parts"), [(1, 2), (2, 2), (1, 4), (4, 1)])
def test_step_batches__ranks_and_parts_share_the_global_batch(streams, world_size, parts):
    """In this order: what 4 ranks take at once, one rank takes in 4 parts."""
    shares = [batches(streams, rank=rank, world_size=world_size, parts=parts) for rank in range(world_size)]
    assert all(len(share) == 12 * parts for share in shares)
    for step, whole in enumerate(batches(streams)):
        for name in streams:
            turns = [batch for share in shares for batch in share[step * parts : (step + 1) * parts]]
            assert len({len(batch) for batch in turns}) == 1
            joined = [slot for batch in turns for slot in batch if slot.stream == name]
            assert joined == [slot for slot in whole if slot.stream == name]


@KINDS
@pytest.mark.parametrize("start", [0, 1, 7, 11, 12, 20])
def test_step_batches__start_anywhere_and_end_at_the_last_step(streams, start):
    assert batches(streams, start_step=start) == batches(streams)[start:]


def test_step_batches__a_set_smaller_than_its_slots_repeats_in_new_orders():
    batch = next(iter(StepBatches({"labelled": Stream(Shuffle(3), 12)}, steps=1, seed=0)))
    epochs = [[slot.index for slot in batch if slot.epoch == epoch] for epoch in range(4)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)


@pytest.mark.parametrize(
    ("streams", "world_size", "message"),
    [
        ({"labelled": Stream(Shuffle(0), 4)}, 1, "at least one labelled sample"),
        ({"labelled": Stream(Shuffle(9), 4)}, 3, "use a multiple of 3"),
        ({"labelled": Stream(Shuffle(9), 0)}, 1, "data.batch.labelled is 0"),
    ],
)
def test_step_batches__refuses_what_cannot_be_shared(streams, world_size, message):
    with pytest.raises(UserError, match=message):
        StepBatches(streams, steps=1, seed=0, world_size=world_size)


def test_step_batches__refuses_parts_that_cannot_be_equal():
    with pytest.raises(UserError, match="2 processes in 3 parts each .* use a multiple of 6"):
        StepBatches({"labelled": Stream(Shuffle(9), 8)}, steps=1, seed=0, world_size=2, parts=3)
