"""Leases on shards: hints about who works on what, between processes that share nothing but a folder.

A lease is a file that only one process can create; its holder changes its content again and again. Whoever wants the
shard watches the content by its own clock: if it stays the same for long enough, the holder is gone and the lease is
taken over. No clock is compared with another, and no time stamp of a file system is read.

If two hold a lease nevertheless (one slept, say), both write the same shard, byte for byte, and who finds the token of
another in it before the shard is committed leaves it to that one. On NFS any look at a file may fail because another
machine just removed it: that says no more than that it is gone.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path


class LeaseLost(Exception):
    """Somebody else has taken over a lease that this process held."""


class Lease:
    """A lease that this process holds: it beats, in a thread, until the block is left."""

    def __init__(self, path: Path, descriptor: int, interval: float) -> None:
        self.path, self.interval = path, interval
        self.token = uuid.uuid4().hex.encode()
        self._descriptor, self._beats = descriptor, 0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._write()

    def _beat(self) -> None:
        while not self._left.wait(self.interval):
            with suppress(OSError):  # the next beat may succeed, and others wait for several
                self._write()

    def _write(self) -> None:
        """Through the open file: if the lease was taken over, the path names another file, which this leaves alone."""
        os.pwrite(self._descriptor, b"%s %012d\n" % (self.token, self._beats), 0)
        os.fsync(self._descriptor)
        self._beats += 1

    def check(self) -> None:
        """Make sure that nobody else holds it.

        Raises:
            LeaseLost: somebody does.
        """
        content = _content(self.path)
        if content and not content.startswith(self.token):
            raise LeaseLost(self.path.name)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        with suppress(OSError):
            os.close(self._descriptor)
            if (_content(self.path) or b"").startswith(self.token):
                self.path.unlink()


class Leases:
    """The leases of a folder.

    Args:
        folder: made if missing.
        interval: seconds between two beats of a holder.
        expiry: seconds without one after which a lease is taken over.
    """

    def __init__(self, folder: Path, interval: float, expiry: float) -> None:
        self.folder, self.interval, self.expiry = folder, interval, expiry
        self._seen: dict[str, tuple[bytes, float]] = {}  # content of a lease, and when it was first seen
        folder.mkdir(exist_ok=True)

    def take(self, name: str) -> Lease | None:
        """The lease on a shard, or None while somebody else is alive who holds it."""
        path = self.folder / f"{name}.lease"
        content = _content(path)
        if content is not None:
            now = time.monotonic()
            known, since = self._seen.get(name, (None, now))
            if content != known:
                self._seen[name] = content, now
                return None
            if now - since < self.expiry or not _take_away(path, content):
                return None
        self._seen.pop(name, None)
        try:
            return Lease(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY), self.interval)
        except FileExistsError:  # somebody else was faster
            return None
        except FileNotFoundError:  # who ended last, with all shards done, has removed the folder
            self.folder.mkdir(exist_ok=True)
            return None

    def held(self, name: str) -> bool:
        """Whether anybody has a lease on a shard; a dead holder counts too."""
        return (self.folder / f"{name}.lease").exists()

    def clear(self) -> None:
        """Remove the folder if no lease is left."""
        with suppress(OSError):
            self.folder.rmdir()


def look_again(folder: Path) -> None:
    """Open a folder, so that an NFS client asks its server what is in it and forgets what it remembers is not there."""
    os.close(os.open(folder, os.O_RDONLY))


def _take_away(path: Path, content: bytes) -> bool:
    """Remove a lease that is still what it was. To give it another name first succeeds for one taker alone."""
    mine = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(mine)
        if _content(mine) == content:
            mine.unlink()
            return True
        mine.rename(path)  # its holder lives, or it already is the lease of another taker
    except OSError:  # somebody else was faster
        pass
    return False


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
