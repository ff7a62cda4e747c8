"""Samples that stay in memory: decoding a photograph again takes as long as learning from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from depth_anything_train.data.sources import Sample
from depth_anything_train.runtime import UserError


class SampleCache:
    """Keeps what a pure function made, until a budget is used up; what is inside stays inside.

    An epoch asks for every sample once, in another order than the last. To throw out the oldest would then find less
    than the share of a set that fits the budget; to keep the first finds all of it.

    Args:
        megabytes: budget of this process for arrays, in 2^20 bytes; 0 keeps nothing.

    Raises:
        UserError: the budget is negative.
    """

    def __init__(self, megabytes: float) -> None:
        if not megabytes >= 0:
            raise UserError(f"Expected data.cache_mb to be 0 or more megabytes, but got {megabytes}.")
        self.free_bytes = megabytes * 2**20
        self._kept: dict[Hashable, Sample] = {}

    def get(self, key: Hashable, make: Callable[[], Sample]) -> Sample:
        """What `make` gave for `key` the first time, or what it gives now. Not to be written to: others get it too.

        Raises:
            Whatever `make` raises; it is asked again the next time.
        """
        sample = self._kept.get(key)
        if sample is None:
            sample = make()
            size = sum(part.nbytes for part in sample.values() if isinstance(part, np.ndarray))
            if size <= self.free_bytes:
                self.free_bytes -= size
                self._kept[key] = sample
        return sample
