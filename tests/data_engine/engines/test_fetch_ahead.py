"""Shards that are elsewhere are fetched while others are labelled."""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scenes import write_shards
from stores import web_server
from stub_teacher import StubTeacher

from data_engine.engines.array import ArrayEngine
from data_engine.engines.base import ShardQueue
from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from depth_anything_train.runtime import UserError
from depth_anything_train.signals import RUN_AGAIN

SHARDS = 3


@pytest.fixture
def images(tmp_path):
    """Three shards of two images: one batch of the teacher each."""
    return write_shards(tmp_path / "images", "images", counts=(2,) * SHARDS)


@pytest.fixture
def web(cache, images):
    with web_server(images) as server:
        yield server


@dataclass
class WaitingTeacher(StubTeacher):
    """At its n-th batch it waits until n + 1 shards are in the cache."""

    cache: Path = Path()
    batches: int = 0

    def infer(self, batch, *, flip):
        self.batches += 1
        deadline = time.monotonic() + 20
        while len([*self.cache.glob("shards/*.tar")]) < min(self.batches + 1, SHARDS):
            assert time.monotonic() < deadline, "the next shard is not fetched meanwhile"
            time.sleep(0.01)
        return super().infer(batch, flip=flip)


def labeller(teacher):
    return ShardLabeller(teacher, LabelSettings(size=28, batch_size=2))


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


@pytest.mark.parametrize("engine", [LocalEngine(), LocalEngine(1), ArrayEngine(task=0, tasks=1)])
def test_engines__fetch_the_next_shard_while_one_is_labelled(web, cache, images, tmp_path, engine):
    label(labeller(WaitingTeacher(cache=cache)), web.address, tmp_path / "out", engine=engine)
    label(labeller(StubTeacher()), images, tmp_path / "expected", engine=LocalEngine())
    assert shards(tmp_path / "out") == shards(tmp_path / "expected") and len(shards(tmp_path / "out")) == 3 * SHARDS
    assert [web.gets[f"shard-{number:06d}.tar"] for number in range(SHARDS)] == [1] * SHARDS


@pytest.mark.parametrize("engine", [LocalEngine(), ArrayEngine(task=0, tasks=1)])
def test_engines__a_shard_that_does_not_come_is_left_out_at_its_turn(web, tmp_path, engine):
    web.cut["shard-000001.tar"] = 99
    with pytest.raises(
        UserError, match=r"1 of 3 shards cannot be labelled.*shard-000001.tar cannot be read: 4 attempts"
    ):
        label(labeller(StubTeacher()), web.address, tmp_path / "out", engine=engine)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [
        "dataset.json",
        "shard-000000.json",
        "shard-000002.json",
    ]
    web.cut.clear()
    assert len(label(labeller(StubTeacher()), web.address, tmp_path / "out", engine=engine)) == SHARDS


def label_slowly(address, out):
    label(labeller(StubTeacher(seconds=20)), address, out, engine=LocalEngine())


def test_local__who_is_asked_to_stop_neither_waits_for_what_it_fetches_nor_leaves_it(web, cache, tmp_path):
    web.slow["shard-000001.tar"] = 20
    process = multiprocessing.get_context("spawn").Process(target=label_slowly, args=(web.address, tmp_path / "out"))
    process.start()
    while not web.gets["shard-000001.tar"]:
        assert process.is_alive()
        time.sleep(0.01)
    asked = time.monotonic()
    process.terminate()
    process.join()
    assert process.exitcode == RUN_AGAIN and time.monotonic() - asked < 10
    assert [path.name.partition("-")[2] for path in cache.glob("shards/*")] == ["shard-000000.tar"]


@pytest.mark.parametrize("seed", range(20))
def test_shard_queue__hands_out_every_shard_once_whoever_is_lost(seed):
    rng = np.random.default_rng(seed)
    count, workers = int(rng.integers(1, 20)), int(rng.integers(1, 6))
    queue, done, busy = ShardQueue(range(count), workers), [], {}
    names = iter(range(10**6))
    for _ in range(workers):
        begin(queue, next(names), busy)
    while busy:
        name = list(busy)[rng.integers(len(busy))]
        number = busy.pop(name)
        if rng.random() < 0.2:
            queue.put_back(name, number)
            name = next(names)
        else:
            done.append(number)
        begin(queue, name, busy)
    assert sorted(done) == list(range(count))


def begin(queue, name, busy):
    number, _ = queue.take(name)
    if number is not None:
        busy[name] = number


def test_shard_queue__a_worker_gets_what_was_put_by_for_it_and_at_the_end_that_of_others():
    queue = ShardQueue(range(7), 2)
    assert [queue.take(name) for name in ("a", "b", "a", "a")] == [(0, 2), (1, 3), (2, 4), (4, 5)]
    assert [queue.take(name) for name in ("b", "b", "b", "a")] == [(3, 6), (6, None), (5, None), (None, None)]
