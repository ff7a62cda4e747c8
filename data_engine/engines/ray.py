"""Labelling on Ray: actors on this machine or on a cluster. Only numbers of shards go through Ray, never pixels."""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_engine.engines.base import PER_GPU, Failures, Worker, WorkerEvent, distribute, label_shard, shard_length
from data_engine.labelling.labeller import ShardLabeller
from depth_anything_train.data.schema import BadShard
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import UserError, console, import_extra

OBJECT_STORE_BYTES = 80 * 2**20  # about the least that Ray takes: nothing large goes through it
CONNECT_TIMEOUT_S = 10.0

# Ray binds to the loopback address where it is told to have no cluster; the name is of the systems where that is usual.
ON_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
NO_REPORT_HOME = {"RAY_USAGE_STATS_ENABLED": "0"}


class RayEngine:
    """Actors that label one shard at a time.

    Args:
        address: address of a cluster to join, `auto` for this machine's own; None starts a Ray of its own on
            this machine, without a dashboard, which listens on the loopback address alone and ends with the command.
        workers: actors; None is as many as there are resources for.
        cpus_per_worker: cores that an actor counts for.
        gpus_per_worker: None is as little as 1 / `PER_GPU` where there are GPUs and the teacher may use one, else 0.
        retries: how often a shard is tried again after its worker was lost.

    Raises:
        UserError: Ray is not installed, or `cpus_per_worker` is not above 0.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float | None = None,
        retries: int = 3,
    ) -> None:
        if cpus_per_worker <= 0:
            raise UserError(f"Expected engine.cpus_per_worker above 0, but got {cpus_per_worker}.")
        self.address, self.workers, self.retries = address, workers, retries
        self.cpus_per_worker, self.gpus_per_worker = cpus_per_worker, gpus_per_worker
        os.environ.update(NO_REPORT_HOME if address else {**NO_REPORT_HOME, **ON_THIS_MACHINE})  # read at import
        self.ray = import_extra("ray", extra="ray")

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> Failures:
        """Label some shards of a folder; see `base.Engine`."""
        self._connect()
        try:
            resources = self.ray.cluster_resources()
            workers = min(self.workers or len(waiting), len(waiting))
            needs = self._needs(labeller.teacher.device, resources.get("GPU", 0), workers)
            places = min(int(resources.get(name, 0) // need) for name, need in needs.items() if need)
            if not places:
                raise UserError(f"Expected resources for a worker of {needs}, but Ray has {resources}.")
            task = self.ray.put((labeller, images, out))
            console.print(f"Ray: {self.workers or places} workers of {needs}.", soft_wrap=True)
            pool = RayPool(self.ray, self.workers or places, needs, task)
            return distribute(pool, images, waiting, self.retries)
        finally:
            self.ray.shutdown()

    def _connect(self) -> None:
        """Join a cluster or start one; requests to stop are still heard as before, for Ray takes SIGTERM for itself."""
        on_request = signal.getsignal(signal.SIGTERM)
        try:
            self._init()
        finally:
            signal.signal(signal.SIGTERM, on_request)

    def _init(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address:
            require_listener(self.address)
            try:
                self.ray.init(address=self.address, **options)
            except (ConnectionError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"Expected a Ray cluster at engine.address={self.address}, but: {reason}") from None
            return
        self.ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **options)
        if (listens := self.ray.nodes()[0]["NodeManagerAddress"]) not in ("127.0.0.1", "::1"):
            self.ray.shutdown()
            raise UserError(
                f"Ray would listen on {listens}: it was imported before engine=ray could bind it to 127.0.0.1."
            )

    def _needs(self, device: str, there: float, workers: int) -> dict[str, float]:
        gpus = self.gpus_per_worker
        if gpus is None:  # no more share a GPU than have to: Ray would leave the others idle
            gpus = 1 / min(PER_GPU, max(math.ceil(workers / there), 1)) if device != "cpu" and there else 0.0
        return {"CPU": self.cpus_per_worker, "GPU": gpus}


def require_listener(address: str) -> None:
    """Make sure that something listens at HOST:PORT: Ray itself tries a wrong address for minutes.

    Raises:
        UserError: nothing does. Names without a port, such as `auto`, are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Expected a Ray cluster at engine.address={address}, but nothing answers: {error}.") from None


class _Labelling:
    """What runs on Ray: it has labeller, images and out from its start, and takes numbers of shards."""

    def __init__(self, task: tuple[ShardLabeller, ShardFolder, Path]) -> None:
        self.labeller, self.images, self.out = task

    def label(self, number: int, ahead: int | None) -> int:
        label_shard(self.labeller, self.images, number, self.out, lambda count: None, ahead=ahead)
        return shard_length(self.images, number)


@dataclass(eq=False)
class RayWorker:
    """An actor, and what it is at."""

    ray: Any
    actor: Any
    coming: Any = None

    def begin(self, number: int, ahead: int | None) -> None:
        """Start to label a shard; `ahead` is the one that probably comes next."""
        self.coming = self.actor.label.remote(number, ahead)

    def stop(self) -> None:
        """End it, whatever it is at."""
        self.ray.kill(self.actor)


@dataclass
class RayPool:
    """Actors.

    Attributes:
        ray: the module.
        size: how many.
        needs: CPU and GPU that each counts for.
        task: labeller, images and out, as they lie in Ray.
    """

    ray: Any
    size: int
    needs: dict[str, float]
    task: Any

    def start_worker(self) -> RayWorker:
        """Start a worker."""
        actor = self.ray.remote(num_cpus=self.needs["CPU"], num_gpus=self.needs["GPU"])(_Labelling)
        return RayWorker(self.ray, actor.remote(self.task))

    def wait(self, busy: Collection[Worker]) -> Iterator[WorkerEvent]:
        """Wait until something happens to one of the busy workers; raise what it raised."""
        by_task = {worker.coming: worker for worker in busy if isinstance(worker, RayWorker)}
        ready, _ = self.ray.wait(list(by_task), num_returns=1)
        for task in ready:
            try:
                yield WorkerEvent(by_task[task], images=self.ray.get(task), finished=True)
            except self.ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, BadShard):
                    raise error.cause from None
                yield WorkerEvent(by_task[task], finished=True, failed=str(error.cause))
            except self.ray.exceptions.RayError as error:  # killed, evicted for lack of memory, out of reach, ...
                by_task[task].stop()  # one that is only out of reach would go on
                yield WorkerEvent(by_task[task], lost=" ".join(str(error).split("\n", 1)[0].split()))
