"""A shuffle as a function: where any one of 62 million samples goes, without a table of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import keyed_seed

ROUNDS = 6
"""Feistel rounds. Four pass for random; two more are cheap."""

SORTED_LENGTH = 256
"""Sets up to this size are sorted outright: on few values a Feistel network cannot make all orders equally often."""


def permute(position: NDArray[np.integer] | Sequence[int] | int, length: int, *key: int | str) -> NDArray[np.int64]:
    """The sample that a keyed shuffle of `length` samples puts at `position`.

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
