"""Labelling on this machine: in this process, or in several, each with a GPU of its own if there are any."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from data_engine.engines.base import (
    PER_GPU,
    Failures,
    Worker,
    WorkerEvent,
    distribute,
    label_shard,
    note_failure,
    shard_length,
)
from data_engine.labelling.labeller import ShardLabeller
from depth_anything_train.data.schema import BadShard
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import ProgressBar, require_count
from depth_anything_train.signals import end_with_parent

VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalEngine:
    """This process alone, or a few for each GPU.

    Args:
        processes: worker processes; None is `PER_GPU` for each GPU, or this process alone where there is none. Each
            worker sees one GPU; where there are more workers than GPUs they share.
        retries: how often a shard is tried again after its worker was lost.

    Raises:
        UserError: `processes` is no whole number of at least 1.
    """

    def __init__(self, processes: int | None = None, retries: int = 3) -> None:
        if processes is not None:
            require_count("engine.processes", processes)
        self.processes, self.retries = processes, retries

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> Failures:
        """Label some shards of a folder; see `base.Engine`."""
        gpus = visible_gpus(labeller.teacher.device)
        processes = self.processes or min(PER_GPU * len(gpus), len(waiting))
        if self.processes is not None or processes > 1:
            return distribute(LocalPool(processes, gpus, (labeller, images, out)), images, waiting, self.retries)
        failures: Failures = {}
        with ProgressBar("label", sum(shard_length(images, number) for number in waiting)) as bar:
            for number, ahead in itertools.zip_longest(waiting, waiting[1:]):
                try:
                    label_shard(labeller, images, number, out, bar.advance, ahead=ahead)
                except BadShard as error:
                    note_failure(failures, number, str(error))
        return failures


def visible_gpus(device: str) -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; none if the device is another."""
    if device not in ("auto", "cuda"):
        return []
    if VISIBLE in os.environ:
        names = os.environ[VISIBLE].split(",")
        return list(itertools.takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names))
    import torch

    return list(map(str, range(torch.cuda.device_count())))


class LocalWorker:
    """A process of this machine, started afresh: forking one that has threads, or a GPU, can hang it."""

    def __init__(self, gpu: str | None, task: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.gpu = gpu
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, gpu, *task), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends with the process

    def begin(self, number: int, ahead: int | None) -> None:
        """Start to label a shard; `ahead` is the one that probably comes next."""
        with suppress(OSError):  # it is lost, and `wait` will say so
            self.connection.send((number, ahead))

    def stop(self) -> None:
        """End it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalPool:
    """Processes of this machine.

    Args:
        size: how many.
        gpus: shared out among them.
        task: labeller, images and out.
    """

    def __init__(self, size: int, gpus: list[str], task: tuple[Any, ...]) -> None:
        self.size, self.task = size, task
        self._free = [gpus[number % len(gpus)] if gpus else None for number in range(size)]

    def start_worker(self) -> LocalWorker:
        """Start a worker."""
        return LocalWorker(self._free.pop(0), self.task)

    def wait(self, busy: Collection[Worker]) -> Iterator[WorkerEvent]:
        """Wait until something happens to one of the busy workers; raise what it raised."""
        by_connection = {worker.connection: worker for worker in busy if isinstance(worker, LocalWorker)}
        for connection in wait_for(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                worker.stop()
                self._free.append(worker.gpu)
                yield WorkerEvent(worker, lost=f"its process ended with status {worker.process.exitcode}")
                continue
            if isinstance(said, BadShard):
                yield WorkerEvent(worker, finished=True, failed=str(said))
            elif isinstance(said, BaseException):
                raise said
            else:
                yield WorkerEvent(worker, finished=True) if said is None else WorkerEvent(worker, images=said)


def _work(connection: Connection, gpu: str | None, labeller: ShardLabeller, images: ShardFolder, out: Path) -> None:
    """A worker: shard numbers come in; counts of labelled images, None at the end of a shard, or an error go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    end_with_parent()
    if gpu is not None:
        os.environ[VISIBLE] = gpu  # before the teacher is loaded
    with suppress(EOFError, ConnectionError):  # the parent is gone
        while True:
            number, ahead = connection.recv()
            try:
                label_shard(labeller, images, number, out, connection.send, ahead=ahead)
                connection.send(None)
            except Exception as error:
                connection.send(error)
