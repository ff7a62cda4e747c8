"""Copies of remote files on the local disk, within a limit of bytes: the least recently used are deleted first.

Any number of processes share the folder without locks. A file appears under its name complete or not at all; whoever
asked for it gets an open descriptor, which outlives the file's name, so nothing that is being read can be taken away.
"""

from __future__ import annotations

import atexit
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from depth_anything_train.runtime import UserError

CACHE, CACHE_GB = "DEPTH_ANYTHING_CACHE", "DEPTH_ANYTHING_CACHE_GB"
"""Environment variables: the folder of the cache, and how many gigabytes (10^9 bytes) of shards it may hold."""

DEFAULT_GB = 100.0
PATIENCE_S = 10.0
"""How long somebody else's download may stand still before it is not waited for any more."""
LEFTOVER_S = 3600.0
"""A download that was not written to for so long belongs to a process that was killed."""


def cache_folder() -> Path:
    """Where copies of remote files lie."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE) or caches / "depth-anything").expanduser()


def cache_limit() -> int:
    """How many bytes of shards the cache may hold.

    Raises:
        UserError: the environment variable holds no positive number.
    """
    given = os.environ.get(CACHE_GB) or str(DEFAULT_GB)
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < float("inf"):
        raise UserError(f"Expected a number of gigabytes above 0 in {CACHE_GB}, but it is {given!r}; unset or fix it.")
    return int(gigabytes * 1e9)


class _File(NamedTuple):
    used: float  # when, in seconds; downloads are in use until they stand still
    bytes: int
    path: Path


class FileCache:
    """A folder of files, bounded by bytes.

    Args:
        folder: is made when the first file comes.
        limit: bytes of all files together; None for small files, thousands of them, that are kept for ever.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit

    def open(self, name: str, fetch: Callable[[Path], None], *, size: int = 0) -> int:
        """Open a file for reading; the descriptor belongs to the caller.

        Args:
            name: name of the file in the cache; equal names must mean equal content.
            fetch: writes the content to the path it is given; called if the file is not there.
            size: bytes it will have, for which room is made beforehand.

        Raises:
            UserError: the folder cannot be made. Beside it whatever `fetch` raises; nothing is left behind then.
        """
        path = self.folder / name
        self._make_folder()
        if (descriptor := self._open(path)) is None:
            if self.limit is not None:
                self._wait_for_others(path)
            if (descriptor := self._open(path)) is None:
                descriptor = self._fetch(path, fetch, size)
        return descriptor

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            name = f"Expected a folder for copies of remote files, but {self.folder} cannot be made"
            raise UserError(f"{name} ({error.strerror}); name another by {CACHE}.") from None

    def _open(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        os.utime(descriptor)  # used now
        return descriptor

    def _fetch(self, path: Path, fetch: Callable[[Path], None], size: int) -> int:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.touch()  # shows the others that somebody is at it
        remove = partial(temporary.unlink, missing_ok=True)
        atexit.register(remove)  # a thread that fetches ahead is not waited for
        try:
            self._make_room(size)
            fetch(temporary)
            descriptor = os.open(temporary, os.O_RDONLY)  # before it has its name: from then on it may be evicted
            os.fsync(descriptor)  # a name that outlives a power cut must not stand for zeros
            os.replace(temporary, path)
        finally:
            remove()
            atexit.unregister(remove)
        self._make_room(0)  # others may have fetched at the same time
        return descriptor

    def _wait_for_others(self, path: Path) -> None:
        """Wait while another process downloads the same file: it saves traffic, and nothing depends on it.

        Whether it is still alive is judged by its progress as seen from here, never by comparing clocks.
        """
        seen: list[_File] = []
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE_S:
            now = sorted(self._files(f".{path.name}."))
            if not now:
                return
            if now != seen:  # parts may come in any order, so the length alone says little
                seen, since = now, time.monotonic()
            time.sleep(0.05)

    def _make_room(self, size: int) -> None:
        """Delete what was used longest ago until `size` more bytes fit, into the limit and onto the disk."""
        if self.limit is None:
            return
        files = self._files()
        used = sum(file.bytes for file in files)
        budget = min(self.limit, used + shutil.disk_usage(self.folder).free)
        for file in sorted(files):
            if used + size <= budget:
                return
            if file.path.suffix == ".tmp" and time.time() - file.used < LEFTOVER_S:
                continue
            file.path.unlink(missing_ok=True)  # another process may have been faster
            used -= file.bytes

    def _files(self, prefix: str = "") -> list[_File]:
        """The files whose names begin so, hidden ones included."""
        files = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    with suppress(FileNotFoundError):  # evicted, or a download that has got its name
                        state = entry.stat()
                        files.append(_File(state.st_mtime, state.st_size, Path(entry.path)))
        return files
