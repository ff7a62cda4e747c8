"""What `prepare` promises holds for archives and videos too: the same bytes, however it ran and whatever befell it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_files import photo, write_files, write_lmdb, write_tar, write_zip
from films import write_film

from data_engine.ingest.images import Images
from data_engine.ingest.video import Video
from data_engine.prepare import prepare
from depth_anything_train.runtime import UserError

PROGRAM = Path(sys.executable).with_name("depth-anything")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def photos(count: int) -> dict[str, bytes]:
    """Of every seventh one only the beginning is there."""
    return {f"{n}.jpg": photo(n)[: -30 if n % 7 == 6 else None] for n in range(count)}


def everything(folder: Path) -> Path:
    """Archives of every kind on a list, and a file."""
    write_zip(folder / "a.zip", photos(20))
    write_tar(folder / "b.tar", photos(10))
    write_tar(folder / "c.tar.gz", photos(25))
    write_lmdb(folder / "d", photos(9))
    write_files(folder, {"e.jpg": photo(99)})
    (folder / "list.txt").write_text("a.zip\nb.tar\ne.jpg\nc.tar.gz\nd/data.mdb\n")
    return folder / "list.txt"


def test_prepare__archives_give_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    root = everything(tmp_path / "raw")
    for workers in (0, 1, 2):
        info = prepare(Images(str(root)), tmp_path / str(workers), samples_per_shard=6, workers=workers)
    assert (info["count"], info["drops"]) == (58, {"truncated_image": 7})
    assert content(tmp_path / "0") == content(tmp_path / "1") == content(tmp_path / "2")


def test_prepare__videos_give_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a", "b", "c"):
        write_film(tmp_path / "raw" / f"{name}.mp4", 20, audio=None)
    (tmp_path / "raw" / "bad.mp4").write_bytes(b"x")
    for workers in (0, 1, 2):
        video = Video(str(tmp_path / "raw"), every=3)
        info = prepare(video, tmp_path / str(workers), samples_per_shard=4, workers=workers)
    assert (info["count"], info["drops"]) == (21, {"unreadable_video": 1})
    assert content(tmp_path / "0") == content(tmp_path / "1") == content(tmp_path / "2")


def test_prepare__killed_amid_a_gzipped_tar_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "raw.tar.gz", photos(150))
    command = [PROGRAM, "prepare", "dataset=images", f"root={archive}", "samples_per_shard=1", "workers=1"]
    killed = subprocess.Popen([*command, f"out={tmp_path / 'killed'}"], stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "killed").glob("*.idx"))) < 5:
        assert killed.poll() is None, "the command ended before it could be killed"
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "dataset.json").exists()
    for name in ("killed", "undisturbed"):
        prepare(Images(str(archive)), tmp_path / name, samples_per_shard=1, workers=0)
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")


def test_prepare__its_own_shards_are_no_archives_to_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", photos(5))
    for _ in range(2):  # the second time the shards lie below the root
        info = prepare(Images(str(tmp_path)), tmp_path / "shards", workers=0)
    assert info["count"] == 5


def test_prepare__refuses_to_continue_with_an_archive_of_other_members(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", photos(5))
    prepare(Images(str(tmp_path / "a.zip")), tmp_path / "out", workers=0)
    write_zip(tmp_path / "a.zip", photos(5) | {"0.jpg": photo(1) + bytes(9)})
    with pytest.raises(UserError, match="other files"):
        prepare(Images(str(tmp_path / "a.zip")), tmp_path / "out", workers=0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB; mounting one needs rights that tests may not have."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_prepare__a_full_disk_is_named_and_what_is_finished_stays(small_disk: Path, workers: int) -> None:
    archive = write_tar(small_disk.parent / "raw.tar.gz", photos(120))
    out = small_disk / "out"
    with pytest.raises(UserError, match="No space left.*nothing finished is lost"):
        prepare(Images(str(archive)), out, samples_per_shard=10, workers=workers)
    finished = {path.stem for path in out.glob("*.idx")}
    assert 0 < len(finished) < 12 and not list(out.glob(".*")) and not (out / "dataset.json").exists()
    assert {path.stem for path in out.glob("*.tar")} == finished
    remount(small_disk, "size=1m")
    prepare(Images(str(archive)), out, samples_per_shard=10, workers=workers)
    prepare(Images(str(archive)), small_disk.parent / "undisturbed", samples_per_shard=10, workers=0)
    assert content(out) == content(small_disk.parent / "undisturbed")


def test_prepare__a_disk_that_cannot_be_written_to_is_told_before_anything_is_listed(small_disk: Path) -> None:
    remount(small_disk, "ro")
    with pytest.raises(UserError, match="Expected a folder to write to as out.*Read-only"):
        prepare(Images(str(small_disk.parent / "does not exist")), small_disk / "out", workers=0)
