"""Which sample stands where: a pure function of (seed, stream, position), so that the only state of a loader is a step.

A stream is one kind of sample with its own share of every batch, for instance 64 labelled beside 128 unlabelled images.
Slot `j` of step `s` in a stream with `n` slots stands at position `p = s * n + j` of an endless sequence of epochs; the
epoch is `p // length`, and within it the order is a keyed permutation of all samples. Nothing else is remembered, so
neither the number of workers, nor of ranks, nor an interruption changes what is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import UserError, keyed_seed

ROUNDS = 6
"""Feistel rounds. Four pass for random; two more are cheap."""

SORTED_LENGTH = 256
"""Sets up to this size are sorted outright: on few values a Feistel network cannot make all orders equally often."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in a batch and the sample that stands there.

    Attributes:
        stream: kind of sample.
        epoch: how often the stream's samples were all used before.
        index: the sample.
        step: of the run.
        position: place among the stream's slots of the global batch, over all ranks.
    """

    stream: str
    epoch: int
    index: int
    step: int
    position: int


class Stream(NamedTuple):
    """`length` samples, of which every global batch takes `slots`."""

    length: int
    slots: int


def permute(position: NDArray[np.integer] | Sequence[int] | int, length: int, *key: int | str) -> NDArray[np.int64]:
    """Where a keyed shuffle of `length` samples has put what stands at `position`.

    A Feistel network permutes the next power of four; whoever lands outside [0, length) walks on until inside. It costs
    the same for any length and holds no table, so 62 million samples are entered anywhere at once.

    Args:
        position: whole numbers in [0, length), any shape.
        length: number of samples, at least 1.
        key: another key, another order.

    Returns:
        Sample indices in [0, length), the same shape.
    """
    assert length >= 1
    places = np.asarray(position, dtype=np.uint64)
    assert (places < length).all()
    seed = keyed_seed("order", *key)
    if length <= SORTED_LENGTH:
        return np.asarray(np.argsort(_hashes(seed, length))[places])
    half_bits = ((length - 1).bit_length() + 1) // 2
    round_keys = _hashes(seed, ROUNDS)
    walkers = _feistel(places.reshape(-1), half_bits, round_keys)
    while (outside := walkers >= length).any():
        walkers[outside] = _feistel(walkers[outside], half_bits, round_keys)
    return walkers.astype(np.int64).reshape(places.shape)


def _hashes(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` random numbers: the splitmix64 generator, which is the same in any version of anything."""
    counter = np.array([(seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64 for i in range(count)], dtype=np.uint64)
    return _hash(counter)


def _feistel(value: NDArray[np.uint64], half_bits: int, round_keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of [0, 4 ** half_bits): each round adds a hash of one half to the other half, and swaps them."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = value >> shift, value & mask
    for key in round_keys:
        left, right = right, left ^ (_hash(right ^ key) & mask)
    return left << shift | right


def _hash(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class StepBatches:
    """The batches of one rank from `start_step` to `steps`, each a list of `Slot`s: a batch sampler without state.

    Every rank takes an equal, contiguous share of every stream's slots, so all ranks take equally many steps, and any
    world size that divides the slots sees the same global batches.

    It has no length on purpose: Lightning counts a resumed run's batches from the start of the run, so a sized loader
    would have to lie about how many are left.

    Args:
        streams: name -> number of samples and slots in a global batch.
        steps: the run ends before this step.
        seed: another seed, another order.
        start_step: the step to begin with.
        rank: which of the shares.
        world_size: number of shares.

    Raises:
        UserError: a stream is empty, or the world size does not divide its slots.
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
    ) -> None:
        assert 0 <= rank < world_size and start_step >= 0
        for name, stream in streams.items():
            if stream.length < 1:
                raise UserError(f"Expected at least one {name} sample, but the folders hold none; prepare them first.")
            if stream.slots < 1:
                raise UserError(f"Expected at least 1 {name} image a batch, but data.batch.{name} is {stream.slots}.")
            if stream.slots % world_size:
                raise UserError(
                    f"Expected a number of {name} images in a batch that {world_size} processes can share equally, "
                    f"but data.batch.{name} is {stream.slots}; use a multiple of {world_size}."
                )
        self.streams, self.steps, self.seed = dict(streams), steps, seed
        self.start_step, self.rank, self.world_size = start_step, rank, world_size

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(self.start_step, self.steps):
            yield [slot for name, stream in self.streams.items() for slot in self._slots(name, stream, step)]

    def _slots(self, name: str, stream: Stream, step: int) -> Iterator[Slot]:
        share = stream.slots // self.world_size
        positions = np.arange(self.rank * share, (self.rank + 1) * share)
        epochs, places = np.divmod(step * stream.slots + positions, stream.length)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):  # one, or two at the seam between epochs
            here = epochs == epoch
            indices[here] = permute(places[here], stream.length, self.seed, name, int(epoch))
        for epoch, index, position in zip(epochs.tolist(), indices.tolist(), positions.tolist(), strict=True):
            yield Slot(name, epoch, index, step, position)
