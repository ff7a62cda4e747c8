"""Where labelling runs: what every engine is, what every worker does, and what happens when a worker is lost.

The unit of work is a shard, and its bytes do not depend on who labels it. So a lost worker costs no more than the shard
it was at, and two that label the same one write the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2

from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.manifest import find_manifest
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.memory import keep_freed_memory
from depth_anything_train.runtime import ProgressBar, UserError, console

PER_GPU = 4
"""Workers that share a GPU: one process of 12 threads gave an H200 a fifth of what it can do, or less."""

Failures = dict[int, str]
"""Number of a shard that cannot be labelled -> why."""


class Engine(Protocol):
    """Runs a labeller over shards, somewhere."""

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> Failures:
        """Label some shards of a folder. One that cannot be labelled does not stop the others.

        Args:
            labeller: teacher and settings.
            images: the image shards.
            waiting: numbers of those that are not labelled yet.
            out: folder of the label shards.

        Returns:
            The shards that cannot be labelled, and why.

        Raises:
            UserError: labelling a shard ended its worker again and again, or other labels lie in `out`.
        """


def label_shard(
    labeller: ShardLabeller,
    images: ShardFolder,
    number: int,
    out: Path,
    on_images: Callable[[int], None],
    before_commit: Callable[[], None] = lambda: None,
    ahead: int | None = None,
) -> None:
    """What a worker does, whatever the engine: label one shard, unless that was just done.

    Args:
        labeller: teacher and settings.
        images: the image shards.
        number: number of the shard.
        out: folder of the label shards.
        on_images: told how many more images are done.
        before_commit: called before there is a label shard; see `ShardLabeller.label`.
        ahead: number of the shard that comes next, to be fetched meanwhile if it is elsewhere. That is a guess: if it
            was wrong, somebody else finds the shard in the cache, or it was fetched for nothing.

    Raises:
        BadShard: it cannot be fetched or labelled, and the others may be all right.
    """
    if find_manifest(out, images, number, labeller.identity) is not None:
        on_images(shard_length(images, number))
        return
    cv2.setNumThreads(1)  # the labeller's own threads are enough
    keep_freed_memory()
    shard = images.shard(number)
    if ahead is not None:
        images.fetch_ahead(ahead)
    labeller.label(shard, out, on_images, before_commit)


def note_failure(failures: Failures, number: int, reason: str) -> None:
    """Remember that a shard cannot be labelled, and say so at once: the run goes on, perhaps for days."""
    failures[number] = reason
    console.print(f"Left out: {reason}", style="red", soft_wrap=True)


def shard_length(images: ShardFolder, number: int) -> int:
    """Samples in a shard of a folder."""
    return images.starts[number + 1] - images.starts[number]


class Worker(Protocol):
    """A process that labels one shard at a time and may be lost at any moment."""

    def begin(self, number: int, ahead: int | None) -> None:
        """Start to label a shard; `ahead` is the one that probably comes next."""

    def stop(self) -> None:
        """End it, whatever it is at."""


@dataclass(frozen=True)
class WorkerEvent:
    """What happened to a worker: it labelled more images, finished with its shard, or is lost, and why.

    `failed` says why a shard that it finished with cannot be labelled.
    """

    worker: Worker
    images: int = 0
    finished: bool = False
    failed: str = ""
    lost: str = ""


class WorkerPool(Protocol):
    """Workers of one kind."""

    size: int

    def start_worker(self) -> Worker:
        """Start a worker."""

    def wait(self, busy: Collection[Worker]) -> Iterable[WorkerEvent]:
        """Wait until something happens to one of the busy workers.

        Raises:
            Exception: the one that labelling raised there.
        """


class ShardQueue:
    """Shards that wait for a worker. The next shard of each worker is reserved, so that it can be fetched in time.

    Args:
        waiting: numbers of the shards.
        workers: how many will ask for one.
    """

    def __init__(self, waiting: Iterable[int], workers: int) -> None:
        self._free, self._workers = deque(waiting), workers
        self._put_by: dict[Worker, int] = {}  # of the worker that began longest ago first

    def take(self, worker: Worker) -> tuple[int | None, int | None]:
        """The shard that a worker is to label now, and what it will probably be afterwards; None for nothing."""
        number = self._put_by.pop(worker, None)
        if number is None and self._free:
            number = self._free.popleft()
        elif number is None and self._put_by:
            number = self._put_by.popitem()[1]  # who began last would come to it last
        self._workers = max(self._workers - 1, 0)
        if len(self._free) <= self._workers:  # as many are still without their first
            return number, None
        self._put_by[worker] = self._free[self._workers]
        del self._free[self._workers]
        return number, self._put_by[worker]

    def put_back(self, worker: Worker, number: int) -> None:
        """A worker was lost at a shard: that one and the one put by for it come next."""
        if worker in self._put_by:
            self._free.appendleft(self._put_by.pop(worker))
        self._free.appendleft(number)


def distribute(pool: WorkerPool, images: ShardFolder, waiting: Sequence[int], retries: int) -> Failures:
    """Give shards to workers, one at a time each; replace a lost worker and have its shard done again.

    Args:
        pool: the workers.
        images: the image shards.
        waiting: numbers of those to label.
        retries: how often a shard is tried again after its worker was lost.

    Returns:
        The shards that cannot be labelled, and why.

    Raises:
        UserError: the workers of one shard were lost more often than that.
    """
    queue, losses = ShardQueue(waiting, min(pool.size, len(waiting))), Counter[int]()
    failures: Failures = {}
    busy: dict[Worker, int] = {}
    seen: Counter[Worker] = Counter()  # images of the shard that a worker is at
    total = sum(shard_length(images, number) for number in waiting)
    try:
        with ProgressBar("label", total) as bar:
            for _ in range(min(pool.size, len(waiting))):
                _begin(pool.start_worker(), queue, busy)
            while busy:
                for event in pool.wait(busy):
                    if event.images:
                        seen[event.worker] += event.images
                        bar.advance(event.images)
                    if event.finished:
                        number = busy.pop(event.worker)
                        del seen[event.worker]
                        if event.failed:
                            note_failure(failures, number, event.failed)
                        _begin(event.worker, queue, busy)
                    elif event.lost:
                        number = busy.pop(event.worker)
                        bar.advance(-seen.pop(event.worker, 0))
                        losses[number] += 1
                        _check_retries(images.shards[number].name, losses[number], retries, event.lost)
                        queue.put_back(event.worker, number)
                        _begin(pool.start_worker(), queue, busy)
    finally:
        for worker in busy:
            worker.stop()
    return failures


def _begin(worker: Worker, queue: ShardQueue, busy: dict[Worker, int]) -> None:
    number, ahead = queue.take(worker)
    if number is None:
        worker.stop()
        return
    busy[worker] = number
    worker.begin(number, ahead)


def _check_retries(name: str, losses: int, retries: int, reason: str) -> None:
    if losses > retries:
        raise UserError(
            f"The worker at {name} was lost {losses} times, the last time because {reason}; perhaps it lacks memory: "
            "try fewer workers or a smaller batch_size; the same out= continues."
        )
