from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from fsspec.implementations.http import HTTPFileSystem
from pictures import labelled_members, picture, png, write_folder
from stores import S3, Web, web_server

from depth_anything_train.data import file_cache, store
from depth_anything_train.data.file_cache import CACHE_GB
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.remote import RemotePath, as_path, join
from depth_anything_train.data.schema import BadSample, BadShard
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.runtime import UserError

Samples = list[tuple[str, dict[str, bytes]]]


@pytest.fixture
def web(cache: Path, tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    with web_server(tmp_path / "web") as server:
        yield server


@pytest.fixture
def shards(web: Web, tmp_path: Path) -> Path:
    """A labelled folder behind the web server: 12 samples in four shards."""
    numbers = [range(start, start + 3) for start in range(0, 12, 3)]
    samples = [[(f"p{n}", labelled_members(n)) for n in shard] for shard in numbers]
    return write_folder(tmp_path / "web" / "shards", {"kind": "labelled"}, samples)


def read(folder: ShardFolder | str) -> Samples:
    folder = ShardFolder(folder) if isinstance(folder, str) else folder
    return [(record.key, {name: bytes(content) for name, content in record.members.items()}) for record in folder]


def copies(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "shards").iterdir())


# -- Addresses. -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pipe:cat shards.tar", "commands are never run"),
        ("ftp://host/folder", "s3://, gs://, http://, https://, but got 'ftp://host/folder'"),
        ("memory://folder", "memory://folder"),
        ("file:///folder", "file:///folder"),
        ("s3://", "but got 's3://'"),
    ],
)
def test_as_path__refuses_what_is_not_read(address: str, message: str) -> None:
    for use in (as_path, ShardFolder):
        with pytest.raises(UserError, match=message):
            use(address)


def test_as_path__tells_paths_from_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/a") == tmp_path / "a"
    assert as_path("a/b:c") == Path("a/b:c")
    assert as_path(tmp_path) is tmp_path
    assert as_path("s3://bucket/a/") == RemotePath("s3://bucket/a")


def test_remote_path__is_taken_apart_like_a_path() -> None:
    path = RemotePath("https://host:80/a/b.v2.tar")
    assert (path.name, path.stem, str(path.parent)) == ("b.v2.tar", "b.v2", "https://host:80/a")
    assert str(path.with_suffix(".idx")) == "https://host:80/a/b.v2.idx"
    assert str(path.parent / "../c") == "https://host:80/c"


def test_join__follows_paths_and_addresses(tmp_path: Path) -> None:
    assert join(tmp_path / "labels", "../images") == tmp_path / "images"
    assert str(join(RemotePath("s3://b/x/labels"), "../images")) == "s3://b/x/images"
    assert str(join(tmp_path, "gs://b/images")) == "gs://b/images"


def test_remote_path__says_which_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r'gcsfs, which is not installed; pip install "depth-anything-train\[remote\]"'):
        ShardFolder("gs://bucket/folder")


# -- The same samples as from disk. -----------------------------------------------------------------------------------


def test_folder__reads_from_s3_what_it_reads_from_disk(cache: Path, s3: S3, shards: Path) -> None:
    address = s3.upload(shards, "same")
    folder, local = ShardFolder(address), ShardFolder(shards)
    assert read(folder) == read(local)
    assert folder.info == local.info and folder.starts == local.starts
    assert [folder.digest(n) for n in range(4)] == [local.digest(n) for n in range(4)]
    assert [str(shard) for shard in folder.shards] == [f"{address}/{n:05d}.tar" for n in range(4)]
    folder.shard(2).check_index()


@pytest.mark.parametrize("pattern", ["", "/{00000..00003}.tar"])
def test_folder__reads_from_a_web_server_what_it_reads_from_disk(web: Web, shards: Path, pattern: str) -> None:
    assert read(f"{web.address}/shards{pattern}") == read(ShardFolder(shards))


def test_folder__a_pattern_stands_for_a_part(web: Web, shards: Path) -> None:
    (shards / "dataset.json").write_text(json.dumps({"schema": 1, "kind": "labelled", "shards": 4, "count": 12}))
    folder = ShardFolder(f"{web.address}/shards/{{00001..00002}}.tar")
    assert [record.key for record in folder] == [f"p{n}" for n in range(3, 9)] and folder.info["kind"] == "labelled"
    with pytest.raises(UserError, match=r"2 are missing: .*/00004\.tar"):
        ShardFolder(f"{web.address}/shards/{{00002..00005}}.tar")
    with pytest.raises(UserError, match=r"shards of one folder, but .*\{shards,more\}/00000\.tar names several"):
        ShardFolder(f"{web.address}/{{shards,more}}/00000.tar")
    with pytest.raises(UserError, match=r"Expected a pattern such as .*, but got .*\{00000\.tar"):
        ShardFolder(f"{web.address}/shards/{{00000.tar")


def test_folder__a_pattern_opens_the_same_shards_again(web: Web, shards: Path) -> None:
    pattern = f"{web.address}/shards/{{00001..00002}}.tar"
    folder = ShardFolder(pattern)
    assert str(folder.address) == pattern and read(ShardFolder(folder.address)) == read(folder)
    assert ShardFolder(shards).address == shards


def test_folder__nothing_is_fetched_twice(web: Web, shards: Path) -> None:
    for _ in range(2):
        read(f"{web.address}/shards")
    assert all(web.gets[f"{n:05d}{suffix}"] == 1 for n in range(4) for suffix in (".tar", ".idx"))


def test_folder__opening_fetches_indices_alone(web: Web, shards: Path) -> None:
    assert len(ShardFolder(f"{web.address}/shards")) == 12
    assert not any(name.endswith(".tar") for name in web.gets)


def test_folder__tars_of_others_are_fetched_once_to_be_indexed(web: Web, cache: Path, tmp_path: Path) -> None:
    images = [[(f"p{n}", {"png": png(picture(n))}) for n in range(start, start + 3)] for start in (0, 3)]
    local = write_folder(tmp_path / "web" / "images", {"kind": "images"}, images)
    for path in (local / "dataset.json", *(index_path(tar) for tar in local.glob("*.tar"))):
        path.unlink()
    for _ in range(2):
        folder = ShardFolder(f"{web.address}/images")
        assert read(folder) == [sample for shard in images for sample in shard] and folder.info["kind"] == "images"
    assert web.gets["00000.tar"] == web.gets["00001.tar"] == 1
    assert not list(local.glob("*.idx"))


def test_folder__what_was_replaced_in_the_store_is_fetched_again(cache: Path, s3: S3, shards: Path) -> None:
    address = s3.upload(shards, "replaced")
    before = read(address)
    samples = [(f"p{n}", labelled_members(n + 50)) for n in range(3)]
    other = write_folder(shards.parent / "other", {"kind": "labelled"}, [samples])
    for suffix in ("tar", "idx"):
        s3.put(f"replaced/00000.{suffix}", (other / f"00000.{suffix}").read_bytes())
    assert read(address) == samples + before[3:]


def test_folder__what_is_not_there_is_one_sentence(cache: Path, s3: S3, web: Web, shards: Path) -> None:
    for address in ("s3://bucket/nothing", "s3://nowhere/nothing", f"{web.address}/nothing"):
        with pytest.raises(UserError, match=rf"{address}, but there is no such folder"):
            ShardFolder(address)
    (shards.parent / "empty").mkdir()
    with pytest.raises(UserError, match="there are none"):
        ShardFolder(f"{web.address}/empty")


def test_folder__a_server_that_is_gone_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    with web_server(tmp_path) as web:
        address = web.address
    with pytest.raises(UserError, match=rf"^{address}/shards cannot be read: 4 attempts failed, .*try again later\.$"):
        ShardFolder(f"{address}/shards")


# -- What goes wrong on the way, or in the store. ---------------------------------------------------------------------


def test_shard__that_is_cut_on_the_way_is_fetched_again(web: Web, shards: Path) -> None:
    web.cut["00001.tar"] = 2
    web.cut["00002.idx"] = 1
    assert read(f"{web.address}/shards") == read(ShardFolder(shards))
    assert web.gets["00001.tar"] == 3 and web.gets["00002.idx"] == 2


def test_shard__that_breaks_off_after_a_long_time_is_fetched_again(
    web: Web, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ShardFolder(f"{web.address}/shards")
    monkeypatch.setattr(store, "GIVE_UP_S", 0)
    web.cut["00001.tar"] = 2
    assert read(folder) == read(ShardFolder(shards))


def test_shard__may_take_longer_than_a_request_as_long_as_something_comes(
    web: Web, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HTTPFileSystem.clear_instance_cache()
    monkeypatch.setattr("aiohttp.client.DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.5))
    web.slow["00001.tar"] = 1
    assert read(f"{web.address}/shards") == read(ShardFolder(shards))
    assert web.gets["00001.tar"] == 1


def test_shard__that_always_comes_cut_is_named(web: Web, cache: Path, shards: Path) -> None:
    web.cut["00001.tar"] = 99
    folder = ShardFolder(f"{web.address}/shards")
    assert folder[0].key == "p0"
    with pytest.raises(UserError, match=r"/00001\.tar cannot be read: 4 attempts failed"):
        folder[3]
    assert [path.name.partition("-")[2] for path in copies(cache)] == ["00000.tar"]  # nothing half-written


def test_shard__a_bit_that_flips_on_the_way_is_fetched_again(web: Web, shards: Path) -> None:
    web.flipped["00001.tar"] = 1
    web.flipped["00002.idx"] = 1
    assert read(f"{web.address}/shards") == read(ShardFolder(shards))
    assert web.gets["00001.tar"] == web.gets["00002.idx"] == 2


def test_shard__a_bit_that_is_flipped_in_the_store_is_named_with_its_sample(web: Web, shards: Path) -> None:
    """As from disk: the sample is bad, the others are read."""
    tar = shards / "00001.tar"
    content = bytearray(tar.read_bytes())
    content[Shard(tar).entry(1).offset + 600] ^= 1
    tar.write_bytes(bytes(content))
    folder = ShardFolder(f"{web.address}/shards")
    with pytest.raises(BadSample, match=r"Sample 1 of http://.*/00001\.tar") as caught:
        folder[4]
    assert caught.value.reason == "damaged_sample"
    assert [folder[index].key for index in (3, 5)] == ["p3", "p5"]


def test_index__a_bit_that_is_flipped_in_the_store_is_named(web: Web, cache: Path, shards: Path) -> None:
    index = shards / "00001.idx"
    sound = index.read_bytes()
    index.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(BadShard, match=r"index of http://.*/00001\.tar is damaged"):
        ShardFolder(f"{web.address}/shards")
    index.write_bytes(sound)
    assert len(ShardFolder(f"{web.address}/shards")) == 12  # the damaged one was not kept


def test_folder__a_shard_that_is_stored_cut_is_named_at_opening(cache: Path, s3: S3, shards: Path) -> None:
    address = s3.upload(shards, "cut")
    content = (shards / "00002.tar").read_bytes()
    s3.put("cut/00002.tar", content[: Shard(shards / "00002.tar").entry(2).offset])
    with pytest.raises(BadShard, match=rf"{address}/00002\.tar has .* bytes, its index says"):
        ShardFolder(address)


def test_folder__a_shard_that_is_missing_in_the_store_is_named_at_opening(cache: Path, s3: S3, shards: Path) -> None:
    (shards / "dataset.json").write_text(json.dumps({"schema": 1, "kind": "labelled", "shards": 4, "count": 12}))
    address = s3.upload(shards, "missing")
    s3.delete("missing/00002.tar")
    with pytest.raises(UserError, match=rf"4 shards with 12 samples in {address} .* 3 with 9, without 00002\.tar"):
        ShardFolder(address)


# -- The cache: bounded, and shared without locks. --------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_retry__a_full_disk_is_named_at_once_with_the_folder_of_the_cache(cache: Path) -> None:
    attempts = []

    def write() -> None:
        attempts.append(1)
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(UserError, match=rf"disk of the cache {cache} is full"):
        store.retry("s3://bucket/x.tar", write)
    assert len(attempts) == 1


def test_cache__holds_no_more_than_its_limit(
    web: Web, cache: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four shards fit; every sample is right all the same, and what is open is not fetched again."""
    sizes = [tar.stat().st_size for tar in sorted(shards.glob("*.tar"))]
    limit = 2 * max(sizes)
    monkeypatch.setenv(CACHE_GB, str(limit / 1e9))
    folder, local = ShardFolder(f"{web.address}/shards"), ShardFolder(shards)
    for index in np.random.default_rng(0).permutation(12).tolist():
        assert folder[index] == local[index]
        assert sum(path.stat().st_size for path in copies(cache)) <= limit
    assert all(web.gets[f"{n:05d}.tar"] == 1 for n in range(4))
    assert len(copies(cache)) == 2


def test_cache__a_process_waits_for_what_another_fetches(web: Web, cache: Path, shards: Path) -> None:
    web.slow = {f"{n:05d}.tar": 0.3 for n in range(4)}
    expected = read(ShardFolder(shards))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = (pool.submit(read, f"{web.address}/shards") for _ in range(2))
        assert first.result() == second.result() == expected
    assert len(copies(cache)) == 4
    assert sum(web.gets[name] for name in web.slow) < 8  # together less than each alone


def test_cache__a_process_that_is_killed_leaves_nothing_that_counts(
    web: Web, cache: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "PATIENCE_S", 0.2)
    web.slow["00000.tar"] = 2
    process = multiprocessing.get_context("spawn").Process(target=read, args=(f"{web.address}/shards",))
    process.start()
    while not (web.gets["00000.tar"] and [*cache.glob("shards/.*.tmp")]):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert len(copies(cache)) == 1 and copies(cache)[0].suffix == ".tmp"
    web.slow.clear()
    assert read(f"{web.address}/shards") == read(ShardFolder(shards))
    assert web.gets["00000.tar"] == 2
