from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from data_engine.writer import ShardWriter
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.schema import BadSample, BadShard
from depth_anything_train.data.shards import Shard
from depth_anything_train.files import remove_leftovers


def test_writer__nothing_is_visible_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "below" / "0.tar"
    with ShardWriter(path) as writer:
        writer.add("a", {"jpg": b"x"})
        assert not path.exists() and not index_path(path).exists()
        writer.commit()
    assert sorted(file.name for file in path.parent.iterdir()) == ["0.idx", "0.tar"]


def test_writer__leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("a", {"jpg": b"x"})
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_writer__leaving_without_commit_keeps_the_old_shard(tmp_path: Path) -> None:
    for content, commit in ((b"old", True), (b"new", False)):
        with ShardWriter(tmp_path / "0.tar") as writer:
            writer.add("a", {"jpg": content})
            if commit:
                writer.commit()
    assert Shard(tmp_path / "0.tar").read(0).image == b"old"


def test_writer__what_a_killed_one_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    left = [tmp_path / f".0.{extension}.{0:032x}.tmp" for extension in ("tar", "idx", "json")]
    for path in (*left, tmp_path / f".1.tar.{0:032x}.tmp"):
        path.write_bytes(b"half a file")
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("a", {"jpg": b"x"})
        remove_leftovers(tmp_path, "0.")
        assert not any(path.exists() for path in left)
        writer.commit()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f".1.tar.{0:032x}.tmp", "0.idx", "0.tar"]


def test_writer__what_it_says_of_a_shard_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("a", {"jpg": b"x"})
        writer.add("b", {"jpg": b"y"})
        written = writer.commit()
    tar = writer.path.read_bytes()
    assert (written.count, written.bytes) == (2, len(tar))
    assert written.xxh3 == xxhash.xxh3_64_hexdigest(tar) and written.keys == xxhash.xxh3_64_hexdigest(b"a\nb\n")
    assert written.digest == Shard(writer.path).digest


def test_writer__bytes_that_changed_on_the_disk_are_not_committed(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("a", {"jpg": b"x" * 1000})
        writer._flush()
        with open(next(tmp_path.glob(".0.tar.*.tmp")), "r+b") as file:
            file.seek(700)
            file.write(b"y")
        with pytest.raises(BadShard, match="reads back as other bytes"):
            writer.commit()
    assert not list(tmp_path.iterdir())


def test_writer__equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        with ShardWriter(tmp_path / f"{number}.tar") as writer:
            writer.add("a", {"jpg": b"x" * 700, "depth.png": b"y", "json": b"{}"})
            writer.add("ü" * 80, {"jpg": b""})
            writer.commit()
        contents.append([file.read_bytes() for file in (writer.path, index_path(writer.path))])
    assert contents[0] == contents[1]


def test_writer__an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.commit()
    shard = Shard(tmp_path / "0.tar")
    shard.check_index()
    assert shard.count == 0


def test_writer__refuses_a_key_twice_and_goes_on(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("a", {"jpg": b"first"})
        with pytest.raises(BadSample) as caught:
            writer.add("a", {"jpg": b"second"})
        writer.add("b", {"jpg": b"third"})
        writer.commit()
    shard = Shard(tmp_path / "0.tar")
    assert caught.value.reason == "duplicate_key"
    assert [shard.read(n).image for n in range(2)] == [b"first", b"third"]


def test_writer__keeps_dotted_keys(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        writer.add("photo.v2", {"disparity.dz16": b"x"})
        writer.commit()
    assert Shard(tmp_path / "0.tar").read(0).key == "photo.v2"


@pytest.mark.parametrize(
    ("key", "extension", "reason"),
    [
        ("a.depth", "png", "bad_key"),
        (".a", "jpg", "bad_key"),
        ("b/.a", "jpg", "bad_key"),
        ("../a", "jpg", "unsafe_name"),
        ("/a", "jpg", "unsafe_name"),
        ("./a", "jpg", "bad_key"),
        ("a", "JPG", "bad_key"),
        ("a", "tar.gz", "bad_key"),
    ],
)
def test_writer__refuses_keys_that_would_read_back_differently(
    tmp_path: Path, key: str, extension: str, reason: str
) -> None:
    with ShardWriter(tmp_path / "0.tar") as writer:
        with pytest.raises(BadSample) as caught:
            writer.add(key, {extension: b"x"})
        assert caught.value.reason == reason and writer.count == 0
