"""Labelling jobs whose processes are killed at random moments, and what must hold all the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from stub_teacher import StubTeacher, started

from data_engine.engines.array import ArrayEngine
from data_engine.engines.base import Engine
from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings


def make_engine(kind: str, **options: Any) -> Engine:
    """An engine by name; Ray is imported where it is asked for."""
    if kind == "ray":
        from data_engine.engines.ray import RayEngine

        return RayEngine(**options)
    return {"local": LocalEngine, "array": ArrayEngine}[kind](**options)


@dataclass(frozen=True)
class Job:
    """A labelling job with a stub teacher, which logs what every process does."""

    images: Path
    out: Path
    seconds: float = 0.005
    engine: dict[str, Any] = field(default_factory=lambda: {"kind": "local"})

    @property
    def log(self) -> Path:
        return self.out.with_suffix(".log")

    def run(self) -> None:
        labeller = ShardLabeller(StubTeacher(self.seconds, self.log), LabelSettings(size=28, batch_size=4), workers=1)
        label(labeller, self.images, self.out, engine=make_engine(**self.engine))

    def start(self) -> multiprocessing.process.BaseProcess:
        """Run in another process, which may be killed."""
        process = multiprocessing.get_context("spawn").Process(target=self.run)
        process.start()
        return process

    def lines(self) -> list[tuple[int, int, int]]:
        """Process, its start and the number of images of each batch that was predicted."""
        text = self.log.read_text() if self.log.exists() else ""
        return [(int(pid), int(start), int(count)) for pid, start, count in map(str.split, text.splitlines())]

    def workers(self, last: int = 50) -> set[int]:
        """Living processes among those that predicted lately."""
        return {pid for pid, start, _ in self.lines()[-last:] if started(pid) == start}

    def predicted(self) -> int:
        """Images that were predicted, those among them that were lost as well."""
        return sum(count for *_, count in self.lines())


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return started(pid) > 0


def wait_until(condition: Callable[[], Any], seconds: float = 300) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@contextmanager
def killing_workers(job: Job, kills: int, rng: random.Random, pause: tuple[float, float]) -> Iterator[list[int]]:
    """Meanwhile SIGKILL a random worker of the job after each random pause; the list grows with their numbers."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < kills and not over.wait(rng.uniform(*pause)):
            if workers := sorted(job.workers() - set(killed)):
                victim = rng.choice(workers)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def torn(out: Path) -> list[str]:
    """Shards that count as done and are not what their manifest says."""
    bad = []
    for mark in sorted(out.glob("shard-*.json")):
        manifest, tar = json.loads(mark.read_text()), mark.with_suffix(".tar").read_bytes()
        if (len(tar), xxhash.xxh3_64_hexdigest(tar)) != (manifest["bytes"], manifest["xxh3"]):
            bad.append(mark.stem)
    return bad


def contents(folder: Path) -> dict[str, bytes]:
    """What is visible in a folder: files whose names do not begin with a dot."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
