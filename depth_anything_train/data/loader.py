"""Iterate training batches: start the workers that load them, and end them."""

from __future__ import annotations

import atexit
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from weakref import WeakSet

import cv2
from torch.utils.data import DataLoader

from depth_anything_train.data.bad_samples import BadSamples
from depth_anything_train.data.hand_over import SharedBuffers, take
from depth_anything_train.data.prefetch import ShardPrefetcher
from depth_anything_train.data.views import Collated
from depth_anything_train.memory import keep_freed_memory
from depth_anything_train.runtime import UserError
from depth_anything_train.signals import STOP_SIGNALS
from depth_anything_train.types import Batch

_running: WeakSet[Generator[Batch, None, None]] = WeakSet()


class TrainLoader:
    """Iterates batches and counts bad samples in the main process, so that the count depends on no worker.

    Workers end with the iterator that they load for: when it is dropped, at `close`, or when the process leaves.

    Args:
        load: starts workers that leave batches in the buffers, if there are any.
        buffers: makes these for an iterator; None where torch hands batches over.
        bad: counts what could not be used.
        prefetcher: makes what fetches remote shards beforehand; None leaves that to the workers.

    Attributes:
        waited: seconds that the main process spent here, waiting for workers or loading by itself.
    """

    def __init__(
        self,
        load: Callable[[SharedBuffers | None], DataLoader[Collated | UserError]],
        buffers: Callable[[], SharedBuffers] | None,
        bad: BadSamples,
        prefetcher: Callable[[], ShardPrefetcher] | None,
    ) -> None:
        self.load, self.buffers, self.bad, self.prefetcher = load, buffers, bad, prefetcher
        self.waited = 0.0
        self._iterators: WeakSet[Generator[Batch, None, None]] = WeakSet()

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        self._iterators.add(batches)
        _running.add(batches)
        return batches

    def close(self) -> None:
        """End the workers."""
        _close(self._iterators)

    def _batches(self) -> Generator[Batch, None, None]:
        start = time.perf_counter()
        keep_freed_memory()  # here and in the workers
        buffers = None
        if self.buffers is not None:
            with suppress(OSError):  # a system that promises no more memory than it has; torch hands over what is used
                buffers = self.buffers()
        loaded = iter(self.load(buffers))  # starts the workers
        try:
            with self.prefetcher() if self.prefetcher is not None else nullcontext() as prefetcher:
                for number, collated in enumerate(loaded):
                    if isinstance(collated, UserError):
                        raise collated
                    self.bad.count(collated.samples, collated.problems)
                    batch = take(collated.batch)
                    self.waited += time.perf_counter() - start
                    yield batch
                    self.bad.note_used()  # Lightning has asked for the next one when it works at this one
                    start = time.perf_counter()
                    if prefetcher is not None:
                        prefetcher.reach(number + 1)
        finally:
            del loaded, buffers  # the traceback of an error would keep them, and the workers


def start_worker(worker: int) -> None:
    """What a worker does first. Torch is down to one thread in it already; OpenCV must be told.

    A signal that asks the run to stop often goes to all of its processes; the step it is at still needs its images.
    """
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _close(iterators: WeakSet[Generator[Batch, None, None]]) -> None:
    for batches in list(iterators):
        batches.close()


# Workers ignore what `multiprocessing` ends them with, which would wait for them forever. Last in, first called.
atexit.register(_close, _running)
