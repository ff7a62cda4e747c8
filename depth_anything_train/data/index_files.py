"""Where the index of a tar lies: beside it as NAME.idx, or in the cache, and how those that are missing are made.

In the cache are the indices of remote tars, and of local ones in folders where nothing can be written or where NAME.idx
belongs to another program. Files that are not ours are never written over.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, overload

from depth_anything_train.data.file_cache import FileCache, cache_folder
from depth_anything_train.data.index import HEADER, build_index, index_problem, is_ours, parse_header
from depth_anything_train.data.remote import AnyPath, RemotePath
from depth_anything_train.data.schema import BadShard
from depth_anything_train.files import write_bytes
from depth_anything_train.locks import wait_for_lock
from depth_anything_train.parallel import in_parallel
from depth_anything_train.runtime import ProgressBar, console

LOCK = ".indexing.lock"


@overload
def index_path(tar: Path) -> Path: ...
@overload
def index_path(tar: RemotePath) -> RemotePath: ...
def index_path(tar: AnyPath) -> AnyPath:
    """The index beside a tar."""
    return tar.with_suffix(".idx")


def open_index(tar: AnyPath) -> int:
    """Open the index of a tar for reading.

    A remote tar of others, which has none, is fetched once to be indexed; for local ones see `make_indices`.

    Raises:
        FileNotFoundError: a local tar has no index of ours, or a remote tar does not exist.
        BadShard: it does not belong to the remote tar, or cannot be made.
        UserError: the store does not answer.
    """
    if isinstance(tar, RemotePath):
        return tar.keep(".idx", lambda target, listed: _fetch(index_path(tar), target, listed))
    with suppress(FileNotFoundError):
        descriptor = os.open(index_path(tar), os.O_RDONLY)
        if is_ours(os.pread(descriptor, HEADER.size, 0)):
            return descriptor
        os.close(descriptor)
    with suppress(FileNotFoundError):
        return os.open(_kept(tar), os.O_RDONLY)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(index_path(tar)))


def _fetch(beside: RemotePath, target: Path, tar: RemotePath) -> None:
    def problem(copy: Path) -> str:
        content = copy.read_bytes()
        return index_problem(content, tar, tar.size) if is_ours(content) else ""

    try:
        beside.fetch(target, check=problem)
        foreign = not is_ours(target.read_bytes())
    except FileNotFoundError:
        foreign = True
    if foreign:
        target.write_bytes(build_index(tar))
    if found := problem(target):
        raise BadShard(found)


def _kept(tar: Path) -> Path:
    """The index in the cache: another name for each version of the tar."""
    facts = tar.stat()
    version = f"{os.path.realpath(tar)}\n{facts.st_size}\n{facts.st_mtime_ns}"
    return cache_folder() / "kept" / f"{hashlib.sha256(version.encode()).hexdigest()[:24]}-{tar.name}.idx"


def read_index(tar: AnyPath) -> bytes:
    """Content of the index of a tar. (Mapped into memory each would keep a descriptor.) Raises as `open_index`."""
    with os.fdopen(open_index(tar), "rb") as file:
        return file.read()


def read_header(tar: AnyPath) -> tuple[int, int] | None:
    """Number of samples and checksum of the records, from the index of a tar; None where it has no index yet.

    Raises:
        BadShard: index and tar do not belong together. Beside it as `open_index`.
    """
    try:
        descriptor = open_index(tar)
    except FileNotFoundError:
        if isinstance(tar, RemotePath):
            raise
        return None
    try:
        header, size = os.read(descriptor, HEADER.size), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    return parse_header(header, size, tar, tar.size if isinstance(tar, RemotePath) else tar.stat().st_size)


# -- Making those that are missing. ------------------------------------------------------------------------------------


def make_index(tar: Path) -> None:
    """Index a local tar of others, unless it has an index: beside it where that is possible, else in the cache.

    Raises:
        BadShard: it cannot be used as a shard.
        UserError: nothing can be written into the cache.
    """
    if read_header(tar) is not None:
        return
    content = build_index(tar)
    if not index_path(tar).exists():
        with suppress(OSError):  # read-only folder
            write_bytes(index_path(tar), content)
            return
    kept = _kept(tar)
    os.close(FileCache(kept.parent, None).open(kept.name, lambda target: write_bytes(target, content)))


def make_indices(folder: Path, tars: Sequence[Path]) -> list[tuple[int, int]]:
    """Index those tars of a folder that have no index, several at a time; what `read_header` says of all of them then.

    Of processes that start together one does it, and the others wait.

    Raises:
        BadShard, UserError: as `make_index`.
    """
    with _by_turns(folder):
        headers = in_parallel(read_header, tars, perhaps_quick=True)
        missing = [tar for tar, header in zip(tars, headers, strict=True) if header is None]
        if missing:
            size = sum(tar.stat().st_size for tar in missing)
            console.print(
                f"{len(missing)} tars in {folder} have no index yet and are read once, {size / 1e9:.3g} GB; "
                f"`depth-anything verify deep=false shards={folder}` does it beforehand.",
                soft_wrap=True,
            )
        with ProgressBar("indexing", len(missing), shown=bool(missing)) as bar:
            for _ in in_parallel(make_index, missing):
                bar.advance()
    return [header for header in in_parallel(read_header, tars, perhaps_quick=True) if header is not None]


@contextmanager
def _by_turns(folder: Path) -> Iterator[None]:
    with _open_lock(folder) as lock:
        wait_for_lock(lock, f"Another process is indexing {folder}; waiting for it.")
        yield


def _open_lock(folder: Path) -> IO[bytes]:
    """A file in the folder, or for one where nothing can be written in the cache; the lock goes with its process."""
    try:
        return open(folder / LOCK, "wb")
    except OSError:
        name = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:24] + LOCK
        return os.fdopen(FileCache(cache_folder() / "kept", None).open(name, lambda target: None), "rb")
