from __future__ import annotations

import gc
import io
import itertools
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from data_engine.writer import ShardWriter
from depth_anything_train.data import index_files, shards
from depth_anything_train.data.index import Entry, build_index, pack_index
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.order import StepBatches, Stream, make_order
from depth_anything_train.data.schema import DATASET_FILE, UNFINISHED_FILE, BadSample, BadShard
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.data.tar import END_OF_ARCHIVE
from depth_anything_train.files import write_bytes
from depth_anything_train.runtime import UserError

Samples = list[tuple[str, dict[str, bytes]]]


def make_samples(count: int = 5, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    return [
        (f"s{seed}_{number}", {"jpg": rng.bytes(int(rng.integers(0, 1500))), "json": b'{"n": %d}' % number})
        for number in range(count)
    ]


def write(path: Path, samples: Samples) -> Path:
    with ShardWriter(path) as writer:
        for key, members in samples:
            writer.add(key, members)
        writer.commit()
    return path


def foreign(path: Path, members: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(content), 12345, "somebody"
            tar.addfile(info, io.BytesIO(content))
    return path


def read(shard: Shard) -> Samples:
    return [(record.key, record.members) for record in map(shard.read, range(shard.count))]


def test_shard__gives_back_what_was_written(tmp_path: Path) -> None:
    samples = make_samples()
    assert read(Shard(write(tmp_path / "0.tar", samples))) == samples


def test_shard__reads_in_any_order(tmp_path: Path) -> None:
    samples = make_samples()
    shard = Shard(write(tmp_path / "0.tar", samples))
    for number in (3, 0, 4, 4, 1):
        assert shard[number].key == samples[number][0]
    for number in (-1, 5):
        with pytest.raises(IndexError):
            shard.read(number)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # its open file
def test_shard__is_read_by_webdataset(tmp_path: Path) -> None:
    import webdataset  # here, so that the processes started by other tests need not import torch

    samples = make_samples()
    path = write(tmp_path / "0.tar", samples)
    theirs = [
        (sample["__key__"], {name: sample[name] for name in ("jpg", "json")})
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert theirs == samples


def test_index__takes_at_most_24_bytes_a_sample(tmp_path: Path) -> None:
    size = [index_path(write(tmp_path / f"{n}.tar", make_samples(n))).stat().st_size for n in (10, 60)]
    assert (size[1] - size[0]) / 50 <= 24


def test_build_index__equals_the_writers(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    assert build_index(path) == index_path(path).read_bytes()


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_build_index__reads_tars_of_others(tmp_path: Path, tar_format: int) -> None:
    long = "folder/" + "ä" * 120
    keys = ["000000000", "photo.v2", "a.b.c/photo", long, "last"]
    members = [(f"{key}.{ext}", f"{key} {ext}".encode()) for key in keys for ext in ("JPEG", "json", "txt")]
    path = foreign(tmp_path / "00000.tar", members, tar_format)
    shard = Shard(path, build_index(path))
    assert [record.key for record in map(shard.read, range(5))] == keys
    assert shard.read(1).image == b"photo.v2 JPEG"
    assert shard.read(3).members == {ext.lower(): f"{long} {ext}".encode() for ext in ("JPEG", "json", "txt")}


def test_build_index__reads_webdatasets_own_writer(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
        for number in range(3):
            sink.write({"__key__": f"k{number}", "jpg": b"image", "json": {"n": number}})
    shard = Shard(tmp_path / "0.tar", build_index(tmp_path / "0.tar"))
    assert [shard.read(n).meta for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_build_index__an_empty_archive_has_no_samples(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(END_OF_ARCHIVE)
    assert Shard(tmp_path / "0.tar", build_index(tmp_path / "0.tar")).count == 0


@pytest.mark.parametrize(
    "names", [["a.jpg", "b.jpg", "a.json"], ["a.jpg", "a.jpg"], ["a.jpg", "b.jpg", "a.jpg"], ["a.jpg", "a.JPG"]]
)
def test_build_index__refuses_keys_that_come_twice(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BadShard, match=r"0\.tar.*Key 'a'"):
        build_index(foreign(tmp_path / "0.tar", [(name, b"x") for name in names]))


def test_build_index__names_a_cut_at_or_inside_a_member(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    whole = path.read_bytes()
    boundary = Shard(path).entry(2).offset
    for length in (boundary, boundary + 512, boundary + 700, len(whole) - 1024, len(whole) - 1, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(BadShard, match=r"0\.tar"):
            build_index(path)


def test_build_index__names_joined_tars(tmp_path: Path) -> None:
    first, second = write(tmp_path / "0.tar", make_samples(2)), write(tmp_path / "1.tar", make_samples(2, seed=1))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(BadShard, match="joined"):
        build_index(first)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(2000), b"\x1f\x8b" + bytes(2000), b"not a tar"])
def test_build_index__names_what_is_no_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(BadShard, match=r"0\.tar"):
        build_index(tmp_path / "0.tar")


def test_shard__a_changed_length_is_found_at_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    whole, index = path.read_bytes(), index_path(path).read_bytes()
    path.write_bytes(whole[: Shard(path).entry(3).offset])
    with pytest.raises(BadShard, match=r"0\.tar has .* bytes"):
        Shard(path)
    path.write_bytes(whole)
    for length in (0, 10, len(index) - 1, len(index) - 20):
        index_path(path).write_bytes(index[:length])
        with pytest.raises(BadShard, match="index"):
            Shard(path)


def test_shard__every_flipped_bit_of_tar_and_index_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    rng = np.random.default_rng(0)
    for file, count in ((path, 700), (index_path(path), 300)):
        whole = file.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), count).tolist():
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bytes(flipped))
            with pytest.raises((BadSample, BadShard)):
                shard = Shard(path)
                shard.check_index()
                read(shard)
        file.write_bytes(whole)
    Shard(path).check_index()


def test_shard__names_the_damaged_sample_and_reads_the_others(tmp_path: Path) -> None:
    samples = make_samples()
    path = write(tmp_path / "0.tar", samples)
    content = bytearray(path.read_bytes())
    content[Shard(path).entry(2).offset + 520] ^= 8
    path.write_bytes(bytes(content))
    shard = Shard(path)
    with pytest.raises(BadSample, match=r"Sample 2 of .*0\.tar") as caught:
        shard.read(2)
    assert caught.value.reason == "damaged_sample"
    assert shard.read(3).members == samples[3][1]


def test_shard__digest_follows_the_content(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.tar", make_samples(seed=seed)) for n, seed in enumerate((0, 0, 1))]
    same, again, other = (Shard(path).digest for path in paths)
    assert same == again != other


def test_shard__a_missing_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    index_path(path).unlink()
    with pytest.raises(UserError, match=r"0\.idx"):
        Shard(path)


def make_folder(folder: Path, counts: tuple[int, ...] = (3, 0, 4)) -> Samples:
    everything: Samples = []
    for number, count in enumerate(counts):
        samples = make_samples(count, seed=number)
        write(folder / f"{number:05d}.tar", samples)
        everything += samples
    (folder / DATASET_FILE).write_text(json.dumps({"schema": 1, "kind": "labelled", "source": "test"}))
    return everything


def test_folder__is_all_shards_in_order_of_their_names(tmp_path: Path) -> None:
    samples = make_folder(tmp_path)
    folder = ShardFolder(tmp_path)
    assert len(folder) == 7 and folder.info["kind"] == "labelled"
    assert [(record.key, record.members) for record in folder] == samples
    assert [folder.locate(index) for index in (0, 2, 3, 6)] == [(0, 0), (0, 2), (2, 0), (2, 3)]
    with pytest.raises(IndexError):
        folder[7]


def keys_of(folder: ShardFolder, indices: list[int]) -> list[str]:
    return [folder[index].key for index in indices]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_folder__survives_pickling_and_starting_processes(tmp_path: Path, method: str) -> None:
    expected = [key for key, _ in make_folder(tmp_path)]
    folder = ShardFolder(tmp_path)
    assert keys_of(folder, [0, 6]) == [expected[0], expected[6]]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(keys_of, folder, list(range(7))).result() == expected
    assert keys_of(pickle.loads(pickle.dumps(folder)), [5]) == [expected[5]]
    assert keys_of(folder, [1]) == [expected[1]]


def test_folder__threads_read_while_shards_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [key for key, _ in make_folder(tmp_path, (2,) * 12)]
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    monkeypatch.setattr(shards, "_opened", cache(shards._opened.__wrapped__))  # which counts from here on
    folder = ShardFolder(tmp_path)
    order = np.random.default_rng(0).integers(0, 24, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda index: folder[index].key, order)) == [expected[index] for index in order]


def test_folder__many_of_them_keep_within_the_files_a_process_may_open(tmp_path: Path) -> None:
    """Three folders of 40 shards, in a process that may open 64 files; each is read twice, by turns."""
    for name in "abc":
        make_folder(tmp_path / name, (1,) * 40)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from depth_anything_train.data.shards import ShardFolder\n"
        "folders = [ShardFolder(f'{sys.argv[1]}/{name}') for name in 'abc']\n"
        "print(sum(len(folder[k].members) for k in [*range(40)] * 2 for folder in folders))\n"
    )
    came = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (came.stdout, came.stderr) == ("480\n", "")


def test_folder__a_shard_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    make_folder(tmp_path, (2,))
    assert ShardFolder(tmp_path)[0].key == "s0_0"
    write(tmp_path / "00000.tar", make_samples(2, seed=7))
    assert ShardFolder(tmp_path)[0].key == "s7_0"


def test_folder__a_shard_that_is_replaced_while_the_folder_is_in_use_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, (2, 3))
    folder = ShardFolder(tmp_path)
    write(tmp_path / "00000.tar", make_samples(2, seed=7))
    with pytest.raises(BadShard, match=r"00000\.tar was replaced"):
        folder[0]
    assert folder[2].key == "s1_0"


def test_folder__indexes_tars_of_others_once(tmp_path: Path) -> None:
    foreign(tmp_path / "00000.tar", [("a.jpg", b"a"), ("a.json", b"{}"), ("b.jpg", b"b")])
    folder = ShardFolder(tmp_path)
    assert keys_of(folder, [0, 1]) == ["a", "b"] and folder.info["kind"] == "images"
    assert index_path(tmp_path / "00000.tar").exists()
    assert len(ShardFolder(tmp_path)) == 2


def test_folder__hidden_files_of_a_mac_are_no_samples(tmp_path: Path) -> None:
    names = (".DS_Store", "._a.jpg", "a.jpg", "._a.json", "a.json", "sub/._b.jpg", "sub/b.jpg", ".jpg")
    foreign(tmp_path / "00000.tar", [(name, name.encode()) for name in names])
    folder = ShardFolder(tmp_path)
    assert keys_of(folder, range(len(folder))) == ["a", "sub/b"]
    assert {name: bytes(data) for name, data in folder[0].members.items()} == {"jpg": b"a.jpg", "json": b"a.json"}


def test_folder__a_hidden_file_that_an_older_index_counts_is_a_bad_sample(tmp_path: Path) -> None:
    members = [("._a.jpg", b"note"), ("a.jpg", b"a")]
    foreign(tmp_path / "00000.tar", members)
    content = (tmp_path / "00000.tar").read_bytes()
    entries = [Entry(place, 1024, xxhash.xxh3_64_intdigest(content[place : place + 1024])) for place in (0, 1024)]
    index_path(tmp_path / "00000.tar").write_bytes(pack_index(entries, len(content)))
    folder = ShardFolder(tmp_path)
    with pytest.raises(BadSample, match="delete the index") as caught:
        folder[0]
    assert caught.value.reason == "hidden_file" and folder[1].key == "a"


def test_folder__a_link_to_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path / "00000.tar", make_samples(2))
    (tmp_path / "00001.tar").symlink_to(tmp_path / "unmounted" / "00001.tar")
    with pytest.raises(UserError, match=r"00001.tar is a link to what does not exist"):
        ShardFolder(tmp_path)


DALI = b"v1.2 2\njpg 512 1 a.jpg\njpg 1536 1 b.jpg\n"


def test_folder__an_index_of_another_program_stays_and_ours_goes_into_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    foreign(folder / "00000.tar", [("a.jpg", b"a"), ("b.jpg", b"b")])
    (folder / "00000.idx").write_bytes(DALI)
    for _ in range(2):
        assert keys_of(pickle.loads(pickle.dumps(ShardFolder(folder))), [0, 1]) == ["a", "b"]
    assert (folder / "00000.idx").read_bytes() == DALI
    assert len(list(cache.rglob("*.idx"))) == 1
    foreign(folder / "00000.tar", [("c.jpg", b"c")])  # another tar, another index
    assert keys_of(ShardFolder(folder), [0]) == ["c"]


def test_folder__keeps_the_index_in_the_cache_where_it_may_not_write(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:  # root may write anywhere: no read-only folder can be had for real
        if folder in path.parents:
            raise PermissionError(13, "Permission denied")
        write_bytes(path, content)

    folder = tmp_path / "images"
    folder.mkdir()
    tar = foreign(folder / "00000.tar", [("a.jpg", b"a"), ("b.jpg", b"b")])
    monkeypatch.setattr(index_files, "write_bytes", refuse)
    assert keys_of(ShardFolder(folder), [0, 1]) == ["a", "b"]
    content = tar.read_bytes()
    times = tar.stat()
    tar.write_bytes(bytes(len(content)))  # no longer a tar, but of the same length and time: it is not read again
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(ShardFolder(folder)) == 2
    assert not index_path(tar).exists()


def test_folder__processes_that_start_together_index_it_once(tmp_path: Path) -> None:
    for number in range(20):
        foreign(tmp_path / f"{number:05d}.tar", [(f"{number}-{n}.jpg", bytes(100_000)) for n in range(10)])
    code = "import sys; from depth_anything_train.data.shards import ShardFolder; print(len(ShardFolder(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    came = [process.communicate() for process in started]
    assert [out for out, _ in came] == ["200\n"] * 3
    assert sum("20 tars in" in told for _, told in came) == 1
    assert not any("tars in" in told.replace("20 tars in", "") for _, told in came)


def test_shard__what_the_file_system_lost_is_opened_again_and_then_named(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    shard = Shard(path)

    def lose() -> None:
        other = os.open(tmp_path, os.O_RDONLY)  # a folder cannot be read: an error of the system, as ESTALE or EIO
        os.dup2(other, shard._tar)
        os.close(other)

    lose()
    assert shard.read(1).key == "s0_1"
    path.unlink()
    lose()
    with pytest.raises(BadShard, match=r"0\.tar cannot be read \(No such file"):
        shard.read(1)


def test_shard__a_command_is_refused_without_noise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="commands are never run"):
        Shard("pipe:cat 0.tar")
    gc.collect()
    assert capsys.readouterr().err == ""


def test_folder__a_cut_shard_is_named_at_opening(tmp_path: Path) -> None:
    make_folder(tmp_path)
    path = tmp_path / "00002.tar"
    path.write_bytes(path.read_bytes()[: Shard(path).entry(2).offset])
    with pytest.raises(BadShard, match=r"00002\.tar"):
        ShardFolder(tmp_path)


def test_folder__what_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ShardFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no shards|there are none"):
        ShardFolder(tmp_path)
    make_folder(tmp_path)
    (tmp_path / DATASET_FILE).write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema 1"):
        ShardFolder(tmp_path)
    (tmp_path / DATASET_FILE).unlink()
    (tmp_path / UNFINISHED_FILE).write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        ShardFolder(tmp_path)


def test_folder__opening_reads_headers_only(tmp_path: Path) -> None:
    make_folder(tmp_path)
    content = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(bytes(len(content)))  # opens, and the damage shows where it is read
    folder = ShardFolder(tmp_path)
    with pytest.raises(BadSample):
        folder[0]
    assert folder[3].key == "s2_0"


def test_entries__tile_the_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", make_samples())
    shard = Shard(path)
    entries = [shard.entry(number) for number in range(shard.count)]
    assert entries[0].offset == 0
    assert all(a.offset + a.extent == b.offset for a, b in itertools.pairwise(entries))
    assert entries[-1].offset + entries[-1].extent + len(END_OF_ARCHIVE) == path.stat().st_size


@pytest.mark.parametrize(("lost", "name"), [(0, "without 00000.tar"), (2, "without 00002.tar")])
def test_folder__a_shard_that_is_missing_is_named_at_opening(tmp_path: Path, lost: int, name: str) -> None:
    """`prepare` says how many shards and samples there are; without one of them the folder opens no more."""
    make_folder(tmp_path)
    facts = {"schema": 1, "kind": "labelled", "shards": 3, "count": 7}
    (tmp_path / DATASET_FILE).write_text(json.dumps(facts))
    assert len(ShardFolder(tmp_path)) == 7
    (tmp_path / f"{lost:05d}.tar").unlink()
    with pytest.raises(UserError, match=f"Expected 3 shards with 7 samples .* there are 2 with .*{name}"):
        ShardFolder(tmp_path)


def test_folder__a_shard_with_another_number_of_samples_is_refused_at_opening(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / DATASET_FILE).write_text(json.dumps({"schema": 1, "kind": "labelled", "shards": 3, "count": 8}))
    with pytest.raises(UserError, match="3 shards with 8 samples .* 3 with 7"):
        ShardFolder(tmp_path)


def test_folder__a_number_of_shards_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / DATASET_FILE).write_text(json.dumps({"schema": 1, "kind": "labelled", "shards": 10**15, "count": 7}))
    with pytest.raises(UserError, match="there are 3 with 7, without 00003.tar"):
        ShardFolder(tmp_path)


@pytest.mark.parametrize("facts", [{"shards": "3"}, {"count": None}, {"images": 3}])
def test_folder__a_dataset_file_with_values_of_other_types_is_damaged(tmp_path: Path, facts: dict[str, Any]) -> None:
    make_folder(tmp_path)
    (tmp_path / DATASET_FILE).write_text(json.dumps({"schema": 1, "kind": "images", **facts}))
    with pytest.raises(UserError, match=f"is damaged: it says {next(iter(facts))} "):
        ShardFolder(tmp_path)


def test_folder__knows_the_digest_of_a_shard_without_opening_it(tmp_path: Path) -> None:
    make_folder(tmp_path)
    folder = ShardFolder(tmp_path)
    digests = [folder.digest(number) for number in range(3)]
    assert digests == [Shard(path).digest for path in folder.shards] and len(set(digests)) == 3


@pytest.mark.parametrize("info", ["[1]", "{}", '{"schema": 1}', '{"schema": 1, "kind": "foo"}'])
def test_folder__a_description_without_its_keys_is_damaged(tmp_path: Path, info: str) -> None:
    make_folder(tmp_path)
    (tmp_path / DATASET_FILE).write_text(info)
    with pytest.raises(UserError, match="damaged"):
        ShardFolder(tmp_path)


def test_folder__a_folder_named_like_a_tar_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(UserError, match="there are none"):
        ShardFolder(tmp_path)


def test_folder__of_many_samples_is_entered_anywhere_without_loading_its_indices(tmp_path: Path) -> None:
    """1.5 million samples in 150 sparse shards, 30 MB of indices; benchmarks/index.py does it with 62 million."""
    count, size = 10_000, 1024
    checksum = xxhash.xxh3_64_intdigest(bytes(size))
    length = count * size + len(END_OF_ARCHIVE)
    index = pack_index([Entry(place * size, size, checksum) for place in range(count)], length)
    for number in range(150):
        tar = tmp_path / f"{number:05d}.tar"
        with open(tar, "wb") as file:
            file.truncate(length)
        index_path(tar).write_bytes(index)
    before = resident_bytes()
    folder = ShardFolder(tmp_path)
    stream = Stream(make_order([np.diff(folder.starts).tolist()], name="unlabelled", shards=10), slots=64)
    batch = next(iter(StepBatches({"unlabelled": stream}, steps=10**9, seed=0, start_step=123_456)))
    assert len(folder) == 1_500_000 and len({slot.index for slot in batch}) == 64
    for slot in batch:
        folder[slot.index]  # zeros agree with their checksum
    assert resident_bytes() - before < 15e6


def resident_bytes() -> int:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of this process is not told here")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
