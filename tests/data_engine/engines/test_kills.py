"""Labelling that is killed at random moments: nothing torn, lost or doubled, and at most a shard of work done again."""

import multiprocessing
import os
import random
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from killing import Job, alive, contents, killing_workers, torn, wait_until
from scenes import write_shards
from stub_teacher import started

from depth_anything_train.signals import RUN_AGAIN

LENGTH = 12  # images a shard
SHARDS = 24
PAUSE = (0.05, 0.4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards") / "images", "images", counts=(LENGTH,) * SHARDS)


@pytest.fixture(scope="module")
def undisturbed(images):
    job = Job(images, images.parent / "undisturbed", seconds=0)
    job.run()
    assert job.predicted() == LENGTH * SHARDS
    return contents(job.out)


def test_local__workers_that_are_killed_are_replaced_and_lose_a_shard_each(images, undisturbed):
    job = Job(images, images.parent / "workers", engine={"kind": "local", "processes": 2, "retries": 9})
    with killing_workers(job, 5, random.Random(0), PAUSE) as killed:
        job.run()
    assert killed
    assert contents(job.out) == undisturbed
    assert job.predicted() - LENGTH * SHARDS <= LENGTH * len(killed)
    assert not list(job.out.glob(".*.tar.*.tmp"))


def test_local__a_killed_run_takes_its_workers_along_and_the_next_one_continues(images, undisturbed):
    job = Job(images, images.parent / "runs", engine={"kind": "local", "processes": 2})
    rng = random.Random(1)
    for number in range(3):
        process = job.start()
        wait_until(lambda: len(list(job.out.glob("shard-*.json"))) > number)  # noqa: B023
        workers = job.workers()
        process.join(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert torn(job.out) == []
        wait_until(lambda: not any(map(alive, workers)))  # noqa: B023
    job.run()
    assert contents(job.out) == undisturbed
    assert job.predicted() - LENGTH * SHARDS <= 3 * 2 * LENGTH


@pytest.mark.parametrize(
    ("processes", "request_to_stop"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (2, signal.SIGINT)]
)
def test_local__a_run_that_is_asked_to_stop_leaves_with_the_status_that_means_run_me_again(
    images, undisturbed, processes, request_to_stop
):
    out = images.parent / f"asked-{processes}-{request_to_stop.name}"
    job = Job(images, out, engine={"kind": "local", "processes": processes})
    process = job.start()
    wait_until(lambda: list(out.glob("shard-*.json")))
    os.kill(process.pid, request_to_stop)
    process.join()
    assert process.exitcode == RUN_AGAIN
    assert torn(out) == []
    job.run()
    assert contents(out) == undisturbed
    assert not list(out.glob(".*.tar.*.tmp"))


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray__a_run_that_is_asked_to_stop_leaves_with_the_status_that_means_run_me_again(images, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the stub teacher
    job = Job(images, images.parent / "asked-ray", engine={"kind": "ray", "workers": 1})
    process = job.start()
    wait_until(lambda: list(job.out.glob("shard-*.json")))
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == RUN_AGAIN
    assert torn(job.out) == []


def label_without_memory(job, errors):
    """In a process of its own, in which Ray finds that any memory in use is too much."""
    os.environ |= {"RAY_memory_usage_threshold": "0", "RAY_memory_monitor_refresh_ms": "100"}
    try:
        job.run()
        errors.put(("nothing", ""))
    except Exception as error:
        errors.put((type(error).__name__, str(error)))


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray__an_actor_that_is_evicted_for_lack_of_memory_is_a_lost_worker(images, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    job = Job(images, images.parent / "evicted", seconds=1, engine={"kind": "ray", "workers": 1, "retries": 0})
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    process = context.Process(target=label_without_memory, args=(job, errors))
    process.start()
    name, message = errors.get()
    process.join()
    assert name == "UserError" and "lost 1 times" in message and "smaller batch_size" in message


def test_array__the_shard_of_a_killed_task_is_taken_over(images, undisturbed):
    times = {"heartbeat_s": 0.1, "expiry_s": 0.5}
    first, second = (
        Job(images, images.parent / "array", engine={"kind": "array", "task": n, "tasks": 2, **times}) for n in range(2)
    )
    victim = first.start()
    wait_until(lambda: first.workers())
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert list((first.out / ".leases").iterdir())
    second.run()
    assert contents(second.out) == undisturbed
    assert not (second.out / ".leases").exists()


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray__a_killed_run_and_killed_actors_lose_little_and_the_bytes_are_those_of_local(
    images, undisturbed, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the stub teacher
    job = Job(images, images.parent / "ray", engine={"kind": "ray", "workers": 2, "cpus_per_worker": 0.5, "retries": 9})
    process = job.start()
    wait_until(lambda: list(job.out.glob("shard-*.json")))
    family, workers = {pid: started(pid) for pid in descendants(process.pid)}, job.workers()
    addresses = listening(list(family))
    assert addresses and all(map(is_loopback, addresses)), addresses
    process.kill()
    process.join()
    wait_until(lambda: not any(map(alive, workers)))
    assert torn(job.out) == []
    for agent, start in family.items():  # Ray's own agents wait a minute for a server that is gone
        if start and started(agent) == start:
            os.kill(agent, signal.SIGKILL)

    process = job.start()  # not here: Ray has to be imported after it was told where to listen
    with killing_workers(job, 3, random.Random(2), PAUSE) as killed:
        process.join()
    assert process.exitcode == 0 and killed
    assert contents(job.out) == undisturbed
    assert job.predicted() - LENGTH * SHARDS <= LENGTH * (2 + len(killed))


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    children = [int(text) for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def listening(pids: list[int]) -> set[str]:
    """Addresses at which processes listen for connections, as the kernel writes them: hexadecimal."""
    sockets = {os.readlink(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                addresses.add(local.partition(":")[0])
    return addresses


def is_loopback(address: str) -> bool:
    """Of an address in that form: 127.0.0.1, plain or inside an IPv6 address, or ::1."""
    return address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
