from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from data_engine.ingest.base import RawSample
from data_engine.ingest.images import Images
from data_engine.ingest.procedural import Procedural
from data_engine.prepare import _claimed, prepare
from data_engine.processes import ordered_map
from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.runtime import UserError


@dataclass(frozen=True)
class Numbers:
    """A data set of numbers; those in `bad` cannot be used, and the content depends on `salt`."""

    count: int = 10
    bad: tuple[int, ...] = ()
    salt: int = 0

    kind = "images"
    source = "numbers"

    def items(self) -> Sequence[int]:
        return range(self.count)

    def load(self, item: int) -> RawSample:
        if item in self.bad:
            raise BadSample("odd" if item % 2 else "even", f"number {item} is bad")
        return RawSample(f"n{item}", {"jpg": b"%d" % (item + self.salt)}, {"sevens": 1} if item % 7 == 0 else {})

    def info(self) -> dict[str, Any]:
        return {"settings": {"salt": self.salt}}


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def write_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
        (folder / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return folder


def test_prepare__shard_k_holds_items_kn_to_k_plus_1_n(tmp_path: Path) -> None:
    prepare(Numbers(10, bad=(4,)), tmp_path, samples_per_shard=4, workers=0)
    assert json.loads((tmp_path / "00001.json").read_text())["examples"] == {"even": ["4: number 4 is bad"]}
    keys = [[shard.read(n).key for n in range(shard.count)] for shard in map(Shard, sorted(tmp_path.glob("*.tar")))]
    assert keys == [["n0", "n1", "n2", "n3"], ["n5", "n6", "n7"], ["n8", "n9"]]


def test_prepare__counts_drops_and_notes(tmp_path: Path) -> None:
    info = prepare(Numbers(10, bad=(1, 4, 5, 9)), tmp_path, samples_per_shard=3, workers=0)
    assert info == ShardFolder(tmp_path).info == json.loads((tmp_path / "dataset.json").read_text())
    assert (info["count"], info["shards"], info["drops"], info["notes"]) == (6, 4, {"even": 1, "odd": 3}, {"sevens": 2})
    assert (info["kind"], info["source"], info["settings"]) == ("images", "numbers", {"salt": 0})


class Licensed(Numbers):
    """Numbers of which every third states a licence."""

    def load(self, item: int) -> RawSample:
        meta = json.dumps({"licence": "CC BY 4.0" if item % 3 == 0 else None}).encode()
        return RawSample(f"n{item}", {"jpg": b"%d" % item, "json": meta})


def test_prepare__counts_licences_and_takes_one_for_samples_that_state_none(tmp_path: Path) -> None:
    info = prepare(Licensed(10), tmp_path, samples_per_shard=3, workers=0)
    assert info["licences"] == {"CC BY 4.0": 4, "unknown": 6}
    info = prepare(Licensed(10), tmp_path, samples_per_shard=3, workers=0, licence="CC0")
    assert info["licences"] == {"CC BY 4.0": 4, "CC0": 6}


@pytest.mark.parametrize("kind", ["images", "labelled"])
def test_prepare__drawn_images_have_the_licence_of_drawn_labels(tmp_path: Path, kind: str) -> None:
    world = Procedural(["room-day"], 2, 0, height=28, width=28, kind=kind)
    assert prepare(world, tmp_path, workers=0)["licences"] == {"Apache-2.0": 2}


def test_prepare__bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (0, 2):
        prepare(Numbers(10, bad=(4,)), tmp_path / str(workers), samples_per_shard=3, workers=workers)
    assert content(tmp_path / "0") == content(tmp_path / "2")


def test_prepare__a_second_call_writes_nothing(tmp_path: Path) -> None:
    prepare(Numbers(), tmp_path, samples_per_shard=3, workers=0)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tar")}
    prepare(Numbers(), tmp_path, samples_per_shard=3, workers=0)
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tar")}


def test_prepare__continues_with_the_missing_shards(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        prepare(Numbers(10, bad=(4,)), tmp_path / name, samples_per_shard=3, workers=0)
    for name in ("00001.idx", "00002.idx", "00002.tar", "00002.json", "dataset.json"):
        (tmp_path / "stopped" / name).unlink()
    (tmp_path / "stopped" / f".00002.tar.{0:032x}.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match="not finished"):
        ShardFolder(tmp_path / "stopped")
    prepare(Numbers(10, bad=(4,)), tmp_path / "stopped", samples_per_shard=3, workers=0)
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_prepare__writes_shards_again_whose_tar_is_lost_or_cut(tmp_path: Path) -> None:
    for name in ("whole", "damaged"):
        prepare(Numbers(10, bad=(4,)), tmp_path / name, samples_per_shard=3, workers=0)
    (tmp_path / "damaged" / "00001.tar").unlink()
    os.truncate(tmp_path / "damaged" / "00002.tar", 700)
    (tmp_path / "damaged" / "00003.json").unlink()
    prepare(Numbers(10, bad=(4,)), tmp_path / "damaged", samples_per_shard=3, workers=0)
    assert content(tmp_path / "damaged") == content(tmp_path / "whole")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see the workers")
def test_prepare__killed_at_any_time_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 150)
    script = (
        "from data_engine.prepare import prepare; from data_engine.ingest.images import Images\n"
        f"if __name__ == '__main__': prepare(Images({str(photos)!r}), {str(tmp_path / 'killed')!r}, "
        "samples_per_shard=1, workers=2)"
    )
    (tmp_path / "job.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, tmp_path / "job.py"], env=environment, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "killed").glob("*.idx"))) < 5:
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.002)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "dataset.json").exists()
    for _ in range(300):  # workers must not outlive their parent
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    for name in ("killed", "undisturbed"):
        prepare(Images(str(photos)), tmp_path / name, samples_per_shard=1, workers=0)
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("other", "per_shard"), [(Numbers(11), 3), (Numbers(10, salt=1), 3), (Numbers(10), 4)], ids=["items", "info", "n"]
)
def test_prepare__refuses_a_folder_of_another_configuration(tmp_path: Path, other: Numbers, per_shard: int) -> None:
    prepare(Numbers(), tmp_path, samples_per_shard=3, workers=0)
    before = content(tmp_path)
    with pytest.raises(UserError, match="another"):
        prepare(other, tmp_path, samples_per_shard=per_shard, workers=0)
    assert content(tmp_path) == before


def test_prepare__refuses_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"precious")
    with pytest.raises(UserError, match="did not write"):
        prepare(Numbers(), tmp_path, workers=0)
    assert content(tmp_path) == {"00000.tar": b"precious"}


def test_prepare__stops_above_the_share_of_bad_items(tmp_path: Path) -> None:
    bad = Numbers(10, bad=(0, 2, 4, 6, 8, 9))
    with pytest.raises(UserError, match=r"6 of 10 items of numbers.*5 even, 1 odd.*number 0 is bad"):
        prepare(bad, tmp_path, samples_per_shard=20, workers=0)
    assert prepare(bad, tmp_path, samples_per_shard=20, workers=0, max_bad_share=0.6)["count"] == 4


def test_prepare__stops_before_the_end_once_the_share_is_certain(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="6 of 10"):
        prepare(Numbers(10, bad=tuple(range(8))), tmp_path, samples_per_shard=2, workers=0)
    assert not (tmp_path / "00003.tar").exists()


def test_prepare__refuses_to_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves nothing"):
        prepare(Numbers(2, bad=(0, 1)), tmp_path, workers=0, max_bad_share=1.0)


@pytest.mark.parametrize("share", [-0.1, 50, float("nan")])
def test_prepare__refuses_a_share_that_is_none_before_anything_is_written(share, tmp_path):
    with pytest.raises(UserError, match="max_bad_share to lie in 0 to 1"):
        prepare(Numbers(2), tmp_path / "out", workers=0, max_bad_share=share)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="samples_per_shard"):
        prepare(Numbers(), tmp_path, samples_per_shard=0)


def test_prepare__that_ended_without_a_sample_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("of the user")
    for share in (0.5, 1.0):  # stopped in the middle, and after the last shard
        with pytest.raises(UserError, match="cannot be used"):
            prepare(Numbers(9, bad=tuple(range(9))), tmp_path, samples_per_shard=2, workers=0, max_bad_share=share)
        assert content(tmp_path) == {"notes.json": b"of the user"}
    assert prepare(Numbers(3), tmp_path, samples_per_shard=2, workers=0)["count"] == len(ShardFolder(tmp_path)) == 3


def test_prepare__does_not_clear_a_folder_in_which_another_run_works(tmp_path: Path) -> None:
    bad = Numbers(4, bad=(0, 1, 2, 3))

    class Pair(Numbers):
        def load(self, item: int) -> RawSample:
            with pytest.raises(UserError, match="leaves nothing"):
                prepare(bad, tmp_path, workers=0)
            assert (tmp_path / "prepare.json").exists()
            raise BadSample("even", "the same")

    Pair.__qualname__ = Numbers.__qualname__
    with pytest.raises(UserError, match="leaves nothing"):
        prepare(Pair(4, bad.bad), tmp_path, workers=0)
    assert not content(tmp_path)


def test_prepare__of_two_data_sets_that_start_at_once_one_has_the_folder(tmp_path: Path) -> None:
    ways = 4

    def begin(way: int) -> bool:
        start.wait()
        try:
            with _claimed(out, {"source": way}, []):
                end.wait()
        except UserError:
            end.wait()
            return False
        return True

    for turn in range(10):
        out = tmp_path / str(turn)
        start, end = (Barrier(ways, timeout=10) for _ in range(2))
        with ThreadPoolExecutor(ways) as pool:
            assert sum(pool.map(begin, range(ways))) == 1


def test_prepare__a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    numbers = Numbers(10, bad=(0, 1, 2))  # the first shard is small
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(UserError, match="same command again"):
            prepare(numbers, tmp_path, samples_per_shard=5, workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = set(content(tmp_path)) - {"00001.json"}  # written before the shard, and means nothing without its index
    assert left == {"00000.idx", "00000.json", "00000.tar", "prepare.json"}
    assert prepare(numbers, tmp_path, samples_per_shard=5, workers=0)["count"] == 7


def add(first: int, second: int) -> int:
    if second == 99:
        os._exit(1)
    return first + second


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_map__keeps_the_order(workers: int) -> None:
    assert list(ordered_map(add, [(n, 1) for n in range(20)], workers)) == list(range(1, 21))


def test_ordered_map__a_worker_that_dies_is_named() -> None:
    with pytest.raises(UserError, match=r"at one of .*\b0 99\b.*fewer workers"):
        list(ordered_map(add, [(0, 1), (0, 99), (0, 2)], 2))


@pytest.mark.parametrize("dataset", ["images", "pairs", "video"])
def test_config__builds_the_ingest(dataset: str, tmp_path: Path) -> None:
    cfg = compose("prepare", [f"dataset={dataset}", f"root={tmp_path}", f"out={tmp_path / 'out'}", "count=7"])
    ingest = build(cfg.dataset)
    assert (ingest.root, ingest.count, ingest.source) == (str(tmp_path), 7, tmp_path.name)
    assert set(OmegaConf.to_container(cfg.dataset)) - {"_target_"} == set(type(ingest).__dataclass_fields__)


@pytest.mark.parametrize("dataset", ["images", "video", "pairs", "da_2k", "hypersim"])
def test_prepare__raw_data_at_an_address_are_refused_with_what_to_do(dataset: str, tmp_path: Path) -> None:
    config = compose("prepare", [f"dataset={dataset}", "root=s3://bucket/raw", f"out={tmp_path}"])
    with pytest.raises(UserError, match="but s3://bucket/raw is an address; copy it here or mount it"):
        prepare(build(config.dataset), config.out, workers=0)


@pytest.mark.samples
def test_prepare__real_photographs(samples_folder: Path, tmp_path: Path) -> None:
    info = prepare(Images(str(samples_folder / "photos"), count=8), tmp_path, samples_per_shard=5, workers=0)
    assert (info["count"], info["drops"], len(ShardFolder(tmp_path))) == (8, {}, 8)
