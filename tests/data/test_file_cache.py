from __future__ import annotations

import os
from pathlib import Path

import pytest

from depth_anything_train.data import file_cache
from depth_anything_train.data.file_cache import CACHE, CACHE_GB, FileCache, cache_folder, cache_limit
from depth_anything_train.runtime import UserError

KB = 1000


def fetch_kb(target: Path) -> None:
    target.write_bytes(bytes(KB))


def fail(target: Path) -> None:
    target.write_bytes(b"half")
    raise OSError("cut off")


def use(cache: FileCache, name: str, *, at: float | None = None) -> None:
    """Open and close a file of 1 kB; `at` sets when it was used, in seconds."""
    os.close(cache.open(name, fetch_kb, size=KB))
    if at is not None:
        os.utime(cache.folder / name, (at, at))


def names(cache: FileCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_file_cache__fetches_a_file_once(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "made", 10 * KB)
    use(cache, "a")
    descriptor = cache.open("a", lambda target: pytest.fail("fetched again"))
    assert os.read(descriptor, 2 * KB) == bytes(KB)
    os.close(descriptor)


def test_file_cache__what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 3 * KB)
    for at, name in enumerate("abc"):
        use(cache, name, at=at)
    use(cache, "a")  # now
    use(cache, "d")
    assert names(cache) == ["a", "c", "d"]


def test_file_cache__never_holds_more_than_its_limit(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 5 * KB // 2)
    for name in "abcdef":
        use(cache, name)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5 * KB // 2


def test_file_cache__without_a_limit_keeps_everything(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, None)
    for name in "abcdef":
        use(cache, name, at=0)
    assert names(cache) == list("abcdef")


def test_file_cache__what_is_open_outlives_its_name(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, KB)
    descriptor = cache.open("a", fetch_kb, size=KB)
    use(cache, "b")
    assert names(cache) == ["b"]
    assert os.pread(descriptor, 2 * KB, 0) == bytes(KB)
    os.close(descriptor)


def test_file_cache__a_file_above_the_limit_is_read_and_not_kept(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, KB // 2)
    descriptor = cache.open("a", fetch_kb, size=KB)
    assert os.pread(descriptor, 2 * KB, 0) == bytes(KB)
    os.close(descriptor)
    assert names(cache) == []


def test_file_cache__a_failure_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10 * KB)
    with pytest.raises(OSError, match="cut off"):
        cache.open("a", fail)
    assert names(cache) == []


def test_file_cache__files_may_vanish_while_room_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process evicts at the same time: what was listed is gone when it is to be deleted."""
    cache = FileCache(tmp_path, 2 * KB)
    use(cache, "a", at=0)
    use(cache, "b", at=1)
    listed = cache._files()
    monkeypatch.setattr(cache, "_files", lambda prefix="": [] if prefix else listed)
    (tmp_path / "a").unlink()
    use(cache, "c")
    assert "c" in names(cache)


def test_file_cache__downloads_of_others_are_not_evicted_until_they_are_leftovers(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, KB)
    running, leftover = tmp_path / ".x.1.tmp", tmp_path / ".y.2.tmp"
    for path in (running, leftover):
        path.write_bytes(bytes(KB))
    os.utime(leftover, (0, 0))
    use(cache, "a")
    assert running.exists() and not leftover.exists()


def test_file_cache__a_download_that_stands_still_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "PATIENCE_S", 0.1)
    cache = FileCache(tmp_path, 10 * KB)
    (tmp_path / ".a.1.tmp").write_bytes(b"of a process that was killed")
    use(cache, "a")
    assert "a" in names(cache)


def test_file_cache__a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"file.* cannot be made .*{CACHE}"):
        FileCache(tmp_path / "file" / "cache", KB).open("a", fetch_kb)


def test_cache_folder__is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "depth-anything"
    monkeypatch.setenv(CACHE, str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "other"


def test_cache_limit__is_gigabytes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_GB, raising=False)
    assert cache_limit() == 100 * 10**9
    monkeypatch.setenv(CACHE_GB, "0.5")
    assert cache_limit() == 5 * 10**8
    for nonsense in ("0", "-1", "much", "inf", "nan"):
        monkeypatch.setenv(CACHE_GB, nonsense)
        with pytest.raises(UserError, match=CACHE_GB):
            cache_limit()
