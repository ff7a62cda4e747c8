"""Which sample comes when: a pure function of (seed, stream, position), so that a loader's only state is a step.

A stream is one kind of sample with its own share of every batch, for instance 64 labelled beside 128 unlabelled images.
Slot `j` of step `s` in a stream with `n` slots stands at position `p = s * n + j` of an endless sequence. An `Order`
says which sample that is: `Shuffle` draws from all samples, `BlockShuffle` from a few shards at a time, and `Mixture`
from several sources in exact shares. Nothing is remembered, so neither the number of workers, nor of ranks, nor an
interruption changes what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.permutation import permute
from depth_anything_train.runtime import UserError, require_count

Positions = NDArray[np.int64]


class Order(Protocol):
    """An endless sequence of epochs over a source; its length is the number of samples."""

    def __len__(self) -> int: ...

    def __call__(self, positions: Positions, *key: int | str) -> tuple[Positions, Positions]:
        """Epoch and index of the samples at any positions, each the same shape; another key, another order."""
        ...


@dataclass(frozen=True)
class Shuffle:
    """Every sample once per epoch, shuffled over all of them."""

    length: int

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: Positions, *key: int | str) -> tuple[Positions, Positions]:
        """Epoch and index of the samples at any positions."""
        epochs, places = np.divmod(positions, self.length)
        return epochs, _each(epochs, places, lambda epoch, here: permute(here, self.length, *key, epoch))


class BlockShuffle:
    """Every sample once per epoch, in an order that reads few shards at a time: for object stores and slow disks.

    The shards are shuffled and cut into groups of at least `group` (fewer than twice as many); the samples are shuffled
    inside each group. An epoch is set up in O(shards), a position found in O(log shards).

    Args:
        counts: number of samples in each shard.
        group: shards that are read at a time, at least.

    Raises:
        UserError: `group` is no whole number of at least 1.
    """

    def __init__(self, counts: Sequence[int], group: int) -> None:
        require_count("data.shuffle_shards", group)
        self.counts, self.group = np.asarray(counts, np.int64), group
        self.starts = _starts(counts)
        self._epoch = lru_cache(maxsize=4)(self._shuffle_shards)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, positions: Positions, *key: int | str) -> tuple[Positions, Positions]:
        """Epoch and index of the samples at any positions."""
        epochs, places = np.divmod(positions, len(self))
        return epochs, _each(epochs, places, lambda epoch, here: self._locate(here, *key, epoch))

    def groups_at(self, position: int, *key: int | str) -> tuple[list[int], list[int]]:
        """The shards of the group that a position stands in, and those of the group after it."""
        now, end = self._group(position, *key)
        then, _ = self._group(end, *key)
        return now, then

    def _group(self, position: int, *key: int | str) -> tuple[list[int], int]:
        """The shards of the group that a position stands in, and the position at which the next one begins."""
        epoch, place = divmod(position, len(self))
        shards, starts, groups = self._epoch(*key, epoch)
        number = int(np.searchsorted(groups, place, side="right"))
        first, end = groups[number - 1 : number + 1].tolist()
        return shards[(starts[:-1] >= first) & (starts[:-1] < end)].tolist(), epoch * len(self) + end

    def _locate(self, places: Positions, *key: int | str) -> Positions:
        shards, starts, groups = self._epoch(*key)

        def shuffle(group: int, here: Positions) -> Positions:
            first, end = groups[group : group + 2].tolist()
            return first + permute(here - first, end - first, *key, group)

        shuffled = _each(np.searchsorted(groups, places, side="right") - 1, places, shuffle)
        standing = np.searchsorted(starts, shuffled, side="right") - 1
        return self.starts[shards[standing]] + shuffled - starts[standing]

    def _shuffle_shards(self, *key: int | str) -> tuple[Positions, Positions, Positions]:
        """The shards as they stand in an epoch, the place at which each begins, and that at which each group does."""
        number = len(self.counts)
        shards = permute(np.arange(number), number, *key, "shards")
        starts = _starts(self.counts[shards])
        num_groups = max(number // self.group, 1)
        return shards, starts, starts[np.arange(num_groups + 1) * number // num_groups]


class Mixture:
    """Several sources in one stream: of every sum(weights) positions in a row, source `s` has exactly `weights[s]`.

    Each source keeps its own count of epochs, so a small one with a large weight comes round more often.

    Args:
        parts: the order of each source.
        weights: share of each source, whole numbers.
        name: name of the stream, for messages.

    Raises:
        UserError: the weights do not fit the sources, or a source is empty.
    """

    def __init__(self, parts: Sequence[Order], weights: Sequence[int], *, name: str) -> None:
        whole = isinstance(weights, Sequence) and all(type(weight) is int and weight >= 1 for weight in weights)
        if not whole or len(weights) != len(parts):
            raise UserError(
                f"Expected data.weights.{name} to be null or a whole number of at least 1 for each of {len(parts)} "
                f"folders, such as {[1] * len(parts)}, but got {weights!r}."
            )
        if not all(map(len, parts)):
            raise UserError(f"Expected samples in every folder of data.weights.{name}, but one is empty; leave it out.")
        self.parts, self.weights = list(parts), np.asarray(weights, np.int64)
        self.bounds = _starts(weights)
        self.starts = _starts([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, positions: Positions, *key: int | str) -> tuple[Positions, Positions]:
        """Epoch (of the sample's own source) and index of the samples at any positions."""
        period = int(self.bounds[-1])
        rounds, places = np.divmod(positions, period)
        turns = _each(rounds, places, lambda number, here: permute(here, period, *key, "mixture", number))
        sources = np.searchsorted(self.bounds, turns, side="right") - 1
        counters = rounds * self.weights[sources] + turns - self.bounds[sources]
        epochs, indices = np.empty_like(counters), np.empty_like(counters)
        for source in np.unique(sources).tolist():
            here = sources == source
            epochs[here], inside = self.parts[source](counters[here], *key, "source", source)
            indices[here] = self.starts[source] + inside
        return epochs, indices

    def groups_at(self, position: int, *key: int | str) -> tuple[list[int], list[int]]:
        """The shards of the groups that the sources stand in, and of those after them; counted through all sources."""
        rounds, first = position // int(self.bounds[-1]), 0
        both: tuple[list[int], list[int]] = ([], [])
        for source, (part, weight) in enumerate(zip(self.parts, self.weights.tolist(), strict=True)):
            assert isinstance(part, BlockShuffle)
            for all_shards, shards in zip(both, part.groups_at(rounds * weight, *key, "source", source), strict=True):
                all_shards.extend(first + shard for shard in shards)
            first += len(part.counts)
        return both


def make_order(
    folders: Sequence[Sequence[int]], *, name: str, weights: Sequence[int] | None = None, shards: int | None = None
) -> Order:
    """The order of a stream.

    Args:
        folders: number of samples in each shard of each folder.
        name: name of the stream, for messages.
        weights: share of each folder; None takes them as one, so that a folder has the share of its samples.
        shards: shuffle inside groups of so many shards; None shuffles over all samples.

    Raises:
        UserError: `weights` or `shards` do not fit.
    """

    def shuffle(counts: Sequence[int]) -> Order:
        return Shuffle(sum(counts)) if shards is None else BlockShuffle(counts, shards)

    if weights is None:
        return shuffle([count for counts in folders for count in counts])
    return Mixture([shuffle(counts) for counts in folders], weights, name=name)


def _starts(counts: Sequence[int] | Positions) -> Positions:
    """Where each part begins when they stand one after the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _each(groups: Positions, places: Positions, change: Callable[[int, Positions], Positions]) -> Positions:
    """Change the places of each group by `change(group, places)`. Positions of one step fall into few groups."""
    changed = np.empty_like(places)
    for group in np.unique(groups).tolist():
        here = groups == group
        changed[here] = change(group, places[here])
    return changed


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a batch and the sample that goes there.

    Attributes:
        stream: kind of sample.
        epoch: how often the samples of its source were all used before.
        index: the sample.
        step: the optimiser step.
        position: place among the stream's slots of the global batch, over all ranks.
    """

    stream: str
    epoch: int
    index: int
    step: int
    position: int


class Stream(NamedTuple):
    """Samples in their order, of which every global batch takes the next `slots`."""

    order: Order
    slots: int


class StepBatches:
    """The batches of one rank from `start_step` to `steps`, each a list of `Slot`s: a batch sampler without state.

    Every rank takes an equal, contiguous share of every stream's slots, so all ranks take equally many steps, and any
    world size that divides the slots sees the same global batches. A rank may take its share in several parts, one
    batch after the other, where its device cannot hold it at once.

    It has no length on purpose: Lightning counts a resumed run's batches from the start of the run, so a sized loader
    would have to lie about how many are left.

    Args:
        streams: name -> order and slots in a global batch.
        steps: the run ends before this step.
        seed: another seed, another order.
        start_step: the step to begin with.
        rank: which of the shares.
        world_size: number of shares.
        parts: micro-batches in a share, over which gradients are accumulated.

    Raises:
        UserError: a stream is empty, or its slots cannot be divided so.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        *,
        steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ) -> None:
        assert 0 <= rank < world_size and start_step >= 0
        for name, stream in streams.items():
            if len(stream.order) < 1:
                raise UserError(f"Expected at least one {name} sample, but the folders hold none; prepare them first.")
            if stream.slots < 1:
                raise UserError(f"Expected at least 1 {name} image a batch, but data.batch.{name} is {stream.slots}.")
            if stream.slots % (world_size * parts):
                raise UserError(
                    f"Expected a number of {name} images in a batch that {_sharers(world_size, parts)} can share "
                    f"equally, but data.batch.{name} is {stream.slots}; use a multiple of {world_size * parts}."
                )
        self.streams, self.steps, self.seed = dict(streams), steps, seed
        self.start_step, self.rank, self.world_size, self.parts = start_step, rank, world_size, parts

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(self.start_step, self.steps):
            for part in range(self.rank * self.parts, (self.rank + 1) * self.parts):
                yield [slot for name, stream in self.streams.items() for slot in self._slots(name, stream, step, part)]

    def _slots(self, name: str, stream: Stream, step: int, part: int) -> Iterator[Slot]:
        size = stream.slots // (self.world_size * self.parts)
        positions = np.arange(part * size, (part + 1) * size)
        epochs, indices = stream.order(step * stream.slots + positions, self.seed, name)
        for epoch, index, position in zip(epochs.tolist(), indices.tolist(), positions.tolist(), strict=True):
            yield Slot(name, epoch, index, step, position)


def _sharers(world_size: int, parts: int) -> str:
    return f"{world_size} processes" + (f" in {parts} parts each" if parts > 1 else "")
