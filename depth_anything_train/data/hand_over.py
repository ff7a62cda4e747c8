"""Batches from the workers of a loader to the main process, through memory that all of them have from the start.

torch opens a file in shared memory for each tensor. Its pages are new each time, which can take half as long as loading
did, and containers limit how many there may be. This memory is taken once, has no name, and ends with the processes.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 64

_numbers = itertools.count()
_known: WeakValueDictionary[int, SharedBuffers] = WeakValueDictionary()
"""By their numbers, which mean the same in a worker: it was forked from this process."""


class SharedBuffers:
    """Room for the batches of one iterator: some buffers for each worker, which it fills in turn.

    To be made before the workers are forked. A buffer is written to again so many batches of its worker later; until
    then somebody must have taken a copy of what lies there.

    Args:
        workers: how many.
        each: buffers of a worker. The loader asks a worker for another batch when it hands one out, so one more than
            it loads ahead.
        size: bytes of a buffer. What does not fit goes torch's way. Pages that are never written to take no memory.
    """

    def __init__(self, workers: int, each: int, size: int) -> None:
        self.memory = [[mmap.mmap(-1, size) for _ in range(each)] for _ in range(workers)]
        self.number = next(_numbers)
        _known[self.number] = self
        self._turn, self._used = -1, 0

    def begin(self) -> None:
        """Go on to the next buffer of this worker."""
        self._turn, self._used = self._turn + 1, 0

    def room(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """An array in the buffer, filled with anything; None where there is no room for it."""
        _, _, memory = self._buffer()
        start, size = self._used, int(np.prod(shape)) * dtype.itemsize
        if start + size > len(memory):
            return None
        self._used = -(-(start + size) // ALIGNMENT) * ALIGNMENT
        return np.ndarray(shape, dtype, memory, start)

    def place(self, batch: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Put its place in the buffer for each tensor; what lies elsewhere is copied into it."""
        return {name: {key: self._placed(value) for key, value in one.items()} for name, one in batch.items()}

    def _buffer(self) -> tuple[int, int, mmap.mmap]:
        worker = get_worker_info()
        assert worker is not None
        buffer = self._turn % len(self.memory[worker.id])
        return worker.id, buffer, self.memory[worker.id][buffer]

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        worker, buffer, memory = self._buffer()
        offset = value.data_ptr() - np.frombuffer(memory, np.uint8).ctypes.data
        if not 0 <= offset < len(memory):
            array = value.numpy()
            if (room := self.room(array.shape, array.dtype)) is None:
                return value
            np.copyto(room, array)
            return self._placed(torch.from_numpy(room))
        return Placed(self.number, worker, buffer, offset, value.dtype, tuple(value.shape), value.stride())


@dataclass(frozen=True)
class Placed:
    """Where a worker left a tensor."""

    buffers: int
    worker: int
    buffer: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def take(self, *, pin: bool = False) -> Tensor:
        """A copy, in pinned memory if asked for."""
        memory = _known[self.buffers].memory[self.worker][self.buffer]
        count = int(np.prod(self.shape))
        lies = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.offset)
        copy = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, pin_memory=pin)
        return copy.copy_(lies.as_strided(self.shape, self.stride))

    def pin_memory(self) -> Tensor:
        """What torch's thread for pinned memory calls."""
        return self.take(pin=True)


def take(batch: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The batch with copies of its tensors, however it came."""
    return {
        name: {key: value.take() if isinstance(value, Placed) else value for key, value in one.items()}
        for name, one in batch.items()
    }
