"""One worker function, several engines: the same bytes from all of them."""

import errno
import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scenes import encode, write_shards
from stub_teacher import StubTeacher

from data_engine.engines import array
from data_engine.engines.array import ArrayEngine
from data_engine.engines.local import LocalEngine, LocalWorker, visible_gpus
from data_engine.engines.ray import require_listener
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.writer import ShardWriter
from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards") / "images", "images", counts=(6, 5, 7, 3))


@pytest.fixture(scope="module")
def undisturbed(images):
    out = images.parent / "undisturbed"
    label(labeller(), images, out, engine=LocalEngine())
    return contents(out)


@pytest.fixture
def out(images, request):
    """A folder beside the others, so that dataset.json, which says where the images are, is equal too."""
    return images.parent / request.node.name


def labeller(teacher=None, **settings):
    return ShardLabeller(teacher or StubTeacher(), LabelSettings(**{"size": 28, "batch_size": 2, **settings}))


def contents(folder):
    """What is visible: files that do not begin with a dot, without what killed writers of small files left."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@pytest.mark.parametrize("processes", [1, 2])
def test_local__processes_write_the_bytes_of_one(images, undisturbed, out, processes):
    label(labeller(), images, out, engine=LocalEngine(processes))
    assert contents(out) == undisturbed


def test_array__one_task_writes_the_bytes_of_local(images, undisturbed, out):
    label(labeller(), images, out, engine=ArrayEngine(task=0, tasks=1))
    assert contents(out) == undisturbed
    assert not (out / ".leases").exists()


def test_array__what_comes_after_a_shard_is_not_copied_for_each_of_them(monkeypatch, tmp_path):
    number, kept = 2000, []
    monkeypatch.setattr(array, "shard_length", lambda images, number: 1)
    monkeypatch.setattr(array._Task, "note", lambda task, number: tmp_path / "none")
    monkeypatch.setattr(array._Task, "settle", lambda task, number, then, bar: not kept.append(then))
    ArrayEngine(task=0, tasks=1).run(labeller(), None, range(number), tmp_path)
    assert [next(iter(then), None) for then in kept] == [*range(1, number), None]
    assert sum(map(sys.getsizeof, kept)) < 1000 * number  # slices: 8 bytes for each of 1000 numbers on average


def run_task(task, images, out, log):
    engine = ArrayEngine(task=task, tasks=2, heartbeat_s=0.1, expiry_s=20)
    label(labeller(StubTeacher(seconds=0.02, log=log)), images, out, engine=engine)


def test_array__two_tasks_share_the_shards(images, undisturbed, out):
    context = multiprocessing.get_context("spawn")
    log = out.with_suffix(".log")
    tasks = [context.Process(target=run_task, args=(n, images, out, log)) for n in range(2)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
        assert task.exitcode == 0
    assert contents(out) == undisturbed
    assert sum(int(line.split()[-1]) for line in log.read_text().splitlines()) == 21  # nothing was done twice


def test_array__takes_its_number_from_slurm(monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("ID", "5"), ("MIN", "1"), ("COUNT", "8")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    engine = build(compose("label", ["engine=array", "teacher=t", "shards=s", "out=o"]).engine)
    assert (engine.task, engine.tasks) == (4, 8)
    for name, value in (("PROCID", "2"), ("STEP_NUM_TASKS", "3")):  # of srun, where a task has several processes
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert (ArrayEngine().task, ArrayEngine().tasks) == (20, 24)
    assert (ArrayEngine(task=0, tasks=1).task, ArrayEngine(task=0, tasks=1).tasks) == (0, 1)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"task": 0},
        {"tasks": 2},
        {"task": 3, "tasks": 3},
        {"task": 0, "tasks": 1, "expiry_s": 20},
        {"task": 0, "tasks": 1, "heartbeat_s": 0},
    ],
)
def test_array__a_task_that_cannot_be_is_refused(task, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(
        UserError,
        match="SLURM_ARRAY_TASK_ID|together|task from 0 to 2|engine.expiry_s|engine.heartbeat_s above 0",
    ):
        ArrayEngine(**task)


@pytest.mark.parametrize(("first", "ids"), [("3", (3, 7)), ("0", (0, 2, 4, 6, 8)), ("5", (5,))])
def test_array__may_have_gaps(first, ids, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", first)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", str(len(ids)))
    for number in ids:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))
        engine = ArrayEngine()
        assert engine.tasks == len(ids) and 0 <= engine.task < len(ids)


def test_local__sees_the_gpus_that_it_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,MIG-7")
    assert visible_gpus("auto") == ["3", "MIG-7"] and visible_gpus("cpu") == visible_gpus("cuda:1") == []
    for nothing in ("", "-1", "-1,0", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert visible_gpus("auto") == []


@dataclass
class GpuTeacher(StubTeacher):
    """Notes which GPU it sees."""

    device: str = "auto"

    def infer(self, batch, *, flip):
        with open(self.log, "a") as log:
            log.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")
        return batch.mean(-1)[:, None]


def test_local__each_worker_sees_a_gpu_of_its_own(images, undisturbed, out, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    seen = out.with_suffix(".gpus")

    label(labeller(GpuTeacher(log=seen)), images, out, engine=LocalEngine())
    assert set(seen.read_text().split()) == {"3", "5"}
    assert contents(out) == undisturbed


@pytest.mark.parametrize("processes", [0, -1, 1.5, "two"])
def test_local__a_number_of_processes_that_cannot_be_is_refused(processes):
    with pytest.raises(UserError, match="engine.processes to be a whole number"):
        LocalEngine(processes)


@dataclass
class DeadlyTeacher(StubTeacher):
    """Ends its process, as the system does when memory is short."""

    def infer(self, batch, *, flip):
        os._exit(7)


@dataclass
class BrokenTeacher(StubTeacher):
    """Raises what a library raises."""

    def infer(self, batch, *, flip):
        raise ZeroDivisionError("what the library said")


def test_local__a_shard_whose_workers_are_lost_again_and_again_is_named(images, tmp_path):
    with pytest.raises(UserError, match="shard-00000.*lost 2 times.*status 7.*memory"):
        label(labeller(DeadlyTeacher()), images, tmp_path / "out", engine=LocalEngine(processes=1, retries=1))
    assert multiprocessing.active_children() == []


def test_local__what_a_worker_raises_comes_through(images, tmp_path):
    with pytest.raises(ZeroDivisionError, match="what the library said"):
        label(labeller(BrokenTeacher()), images, tmp_path / "out", engine=LocalEngine(processes=2))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("busy", [False, True])
def test_local__a_worker_whose_run_is_gone_ends_without_a_traceback(images, tmp_path, capfd, busy):
    worker = LocalWorker(None, (labeller(), ShardFolder(images), tmp_path))
    if busy:
        worker.begin(0, None)
    worker.connection.close()
    worker.process.join()
    assert worker.process.exitcode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("processes", [None, 2])
def test_local__an_image_that_is_code_and_a_flipped_bit_are_counted_skips(tmp_path, processes):
    images = write_shards(tmp_path / "images", "images", counts=(4, 4))
    with ShardWriter(images / "shard-000002.tar") as writer:
        writer.add("evil", {"jpg": b"cos\nsystem\n(S'exit 1'\ntR."})
        writer.commit()
    tolerant = ShardLabeller(StubTeacher(), LabelSettings(size=28), max_bad_share=1)
    manifests = label(tolerant, images, tmp_path / "out", engine=LocalEngine(processes))
    assert manifests[2]["dropped"] == {"image_type": {"count": 1, "examples": ["evil"]}}
    keys = [record.key for record in ShardFolder(tmp_path / "out")]

    tar = bytearray((images / "shard-000001.tar").read_bytes())
    tar[700] ^= 4
    (images / "shard-000001.tar").write_bytes(tar)
    manifests = label(tolerant, images, tmp_path / "again", engine=LocalEngine(processes))
    assert manifests[1]["dropped"] == {"damaged_sample": {"count": 1, "examples": ["damaged-000000"]}}
    again = ShardFolder(tmp_path / "again")
    assert [record.key for record in again] == [*keys[:4], "damaged-000000", *keys[5:]]
    assert [decode_label(*record.label(), {})[1].any() for record in again] == [True] * 4 + [False] + [True] * 3 + [
        False
    ]


@pytest.fixture
def one_bad(tmp_path):
    """Three shards, of which the second holds nothing that can be used."""
    images = write_shards(tmp_path / "images", "images", counts=(4, 4, 4))
    with ShardWriter(images / "shard-000001.tar") as writer:
        writer.add("evil", {"jpg": b"no image"})
        writer.commit()
    return images


@pytest.mark.parametrize("engine", [LocalEngine(), LocalEngine(1), ArrayEngine(task=0, tasks=1)])
def test_label__a_shard_that_cannot_be_labelled_does_not_stop_the_others(one_bad, tmp_path, engine):
    out = tmp_path / "out"
    for _ in range(2):  # a rerun tries it again
        with pytest.raises(UserError, match="1 of 3 shards.*1 of 1 images of shard-000001.tar cannot be used"):
            label(labeller(), one_bad, out, engine=engine)
        assert sorted(path.name for path in out.glob("shard-*.json")) == ["shard-000000.json", "shard-000002.json"]
    tolerant = ShardLabeller(StubTeacher(), labeller().settings, max_bad_share=1)
    assert len(label(tolerant, one_bad, out, engine=engine)) == 3
    assert not (out / ".leases").exists()


def test_array__tasks_believe_that_another_could_not_label_a_shard(one_bad, tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    tasks = [context.Process(target=fail_task, args=(n, one_bad, tmp_path / "out", log)) for n in range(2)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
        assert task.exitcode == 3
    assert [path.name for path in (tmp_path / "out" / ".leases").iterdir()] == ["shard-000001.failed"]


@dataclass
class OvertakenTeacher(StubTeacher):
    """Its process is taken for dead once: another task has its lease, and dies."""

    lease: Path | None = None

    def fetch(self, result):
        if self.lease is not None:
            self.lease.unlink()
            self.lease.write_bytes(b"of another task")
            self.lease = None
        return result


def test_array__who_lost_its_lease_leaves_the_shard_to_the_other(images, undisturbed, out):
    teacher = OvertakenTeacher(log=out.with_suffix(".log"), lease=out / ".leases" / "shard-000000.lease")
    label(labeller(teacher), images, out, engine=ArrayEngine(task=0, tasks=1, heartbeat_s=0.05, expiry_s=0.2))
    assert contents(out) == undisturbed
    counts = [int(line.split()[-1]) for line in teacher.log.read_text().splitlines()]
    assert sum(counts) == 21 + 6, "the first shard was not committed the first time"


def fail_task(task, images, out, log):
    try:
        run_task(task, images, out, log)
    except UserError as error:
        sys.exit(3 if "shard-000001.tar cannot be used" in str(error) else 1)


def test_label__a_read_only_folder_is_named(images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Expected a folder to write to as out"):
        label(labeller(), images, tmp_path / "file" / "out", engine=LocalEngine())


def fill_disk(images, out, errors):
    """In a process of its own: no file may grow beyond 4 kB, and the system says so as it says that a disk is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        label(labeller(), images, out, engine=LocalEngine())
    except OSError as error:
        errors.put((error.errno, error.filename))


def test_label__a_full_disk_leaves_nothing_and_the_rerun_all(images, undisturbed, out):
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    process = context.Process(target=fill_disk, args=(images, out, errors))
    process.start()
    assert errors.get() == (errno.EFBIG, str(out / "shard-000000.tar"))  # which disk it is
    process.join()
    assert [path.name for path in (out).iterdir()] == ["dataset.json"]
    label(labeller(), images, out, engine=LocalEngine())
    assert contents(out) == undisturbed


def test_label__a_shard_may_hold_images_of_any_sizes(tmp_path):
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "images" / "0.tar") as writer:
        for number in range(40):
            height, width = rng.integers(20, 120, 2)
            writer.add(f"{number}", {"png": encode(rng.integers(0, 255, (height, width, 3), np.uint8), "png")})
        writer.commit()
    for name, workers in (("a", 1), ("b", 5)):
        settings = LabelSettings(size=28, batch_size=3, patience=5)
        label(
            ShardLabeller(StubTeacher(), settings, workers=workers),
            tmp_path / "images",
            tmp_path / name,
            engine=LocalEngine(),
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [record.key for record in ShardFolder(tmp_path / "a")] == [f"{number}" for number in range(40)]


def test_ray_engine__an_address_where_nothing_listens_is_named_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listened at
        with pytest.raises(UserError, match=r"engine.address=127.0.0.1:\d+, but nothing answers"):
            require_listener(f"127.0.0.1:{taken.getsockname()[1]}")
