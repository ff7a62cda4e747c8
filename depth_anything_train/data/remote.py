"""Shards that are elsewhere: addresses instead of paths, and whole files fetched into the local cache.

    s3://bucket/folder   gs://bucket/folder   https://host/folder   https://host/folder/{00000..00127}.tar

Which files may be asked for, and that a file came whole; how stores are spoken to: `store`.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depth_anything_train.data.file_cache import FileCache, cache_folder, cache_limit
from depth_anything_train.data.schema import DATASET_FILE
from depth_anything_train.data.store import ATTEMPTS, LIBRARIES, StoreError, filesystem, retry
from depth_anything_train.parallel import in_parallel
from depth_anything_train.runtime import UserError, import_extra

VERSIONS = ("ETag", "etag", "md5Hash", "generation", "Last-Modified", "LastModified", "updated")
"""What stores say about a file that changes when it is replaced, the firmest first."""


@dataclass(frozen=True)
class RemotePath:
    """An address: as much of `pathlib.Path` as shards need. (universal_pathlib takes 0.3 ms to make one of 6,200.)

    Attributes:
        address: SCHEME://HOST/PARTS without a slash at the end.
        size: bytes, where the file was listed.
        version: what changes when the file is replaced, where it was listed.
    """

    address: str
    size: int | None = field(default=None, compare=False)
    version: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last part."""
        return self.address.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its last extension."""
        return Path(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self.address.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> RemotePath:
        """The file beside this one with another extension."""
        return self.parent / Path(self.name).with_suffix(suffix).name

    def __truediv__(self, relative: str) -> RemotePath:
        """What lies in this folder; `..` climbs."""
        scheme, _, rest = self.address.partition("://")
        return RemotePath(f"{scheme}://{os.path.normpath(f'{rest}/{relative}')}")

    def resolve(self) -> RemotePath:
        """Itself: an address has no links."""
        return self

    def exists(self) -> bool:
        """Whether there is such a file.

        Raises:
            UserError: the store does not answer.
        """
        return self.listed() is not None

    def listed(self) -> RemotePath | None:
        """This file with its size and version, or None where there is none.

        Raises:
            UserError: the store does not answer.
        """
        if self.version or self.size is not None:
            return self
        try:
            return _with_facts(self, retry(self.address, lambda: filesystem(self.address).info(self.address)))
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """Content of a small file; it is not kept.

        Raises:
            FileNotFoundError, or UserError: the store does not answer.
        """
        return retry(self.address, lambda: filesystem(self.address).cat_file(self.address))

    def read_text(self) -> str:
        """Content of a small file in UTF-8; raises as `read_bytes`."""
        return self.read_bytes().decode()

    def open(self, check: Callable[[Path], str] = lambda copy: "") -> int:
        """Open for reading, through the cache: the whole file is fetched if it is not there.

        Args:
            check: what is wrong with a copy, or nothing.

        Returns:
            A descriptor, which belongs to the caller.

        Raises:
            FileNotFoundError: it does not exist.
            StoreError: it cannot be fetched, or not whole.
            UserError: nothing can be written to the cache.
        """
        file = self._must_be_listed()
        cache = FileCache(cache_folder() / "shards", cache_limit())
        return cache.open(file._copy_name(""), lambda target: file.fetch(target, check), size=file.size or 0)

    def keep(self, suffix: str, make: Callable[[Path, RemotePath], None]) -> int:
        """Open a small file that belongs to this one and is kept for ever: made the first time, for this version.

        Args:
            suffix: suffix of the small file's name.
            make: writes it to the path given, for this file with its size and version.

        Returns:
            A descriptor, which belongs to the caller.

        Raises:
            FileNotFoundError: this file does not exist. Beside it whatever `make` raises.
        """
        file = self._must_be_listed()
        cache = FileCache(cache_folder() / "kept", None)
        return cache.open(file._copy_name(suffix), lambda target: make(target, file))

    def fetch(self, target: Path, check: Callable[[Path], str] = lambda copy: "") -> None:
        """Fetch the whole file. What is damaged in the same way twice is damaged where it is stored, and is kept so.

        Raises:
            FileNotFoundError: it does not exist.
            StoreError: it cannot be fetched, or comes otherwise each time.
            UserError: the disk of the cache is full.
        """

        def get() -> None:
            filesystem(self.address).get_file(self.address, str(target))
            came = target.stat().st_size
            if self.size not in (None, came):
                raise OSError(f"{came:,} of {self.size:,} bytes came")

        problem = ""
        for _ in range(ATTEMPTS):
            retry(self.address, get, patient=True)
            before, problem = problem, check(target)
            if problem in ("", before):
                return
        raise StoreError(f"{self} comes otherwise each time it is fetched (at last: {problem}); check the connection.")

    def _must_be_listed(self) -> RemotePath:
        file = self.listed()
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.address)
        return file

    def _copy_name(self, suffix: str) -> str:
        """Another name for each version, so that nothing old is ever taken for the new."""
        digest = hashlib.sha256(f"{self.address}\n{self.size}\n{self.version}".encode()).hexdigest()
        return f"{digest[:24]}-{self.name}{suffix}"


AnyPath = Path | RemotePath


def as_path(path: str | Path | RemotePath) -> AnyPath:
    """Tell addresses from paths of this machine.

    Raises:
        UserError: an address of a kind that is not read, or a command.
    """
    if not isinstance(path, str):
        return path
    if path.startswith("pipe:"):
        raise UserError(f"Expected a folder or an address, but got the command {path!r}; commands are never run.")
    scheme, is_address, rest = path.partition("://")
    if not is_address:
        return Path(path).expanduser()
    if scheme not in LIBRARIES or not rest.strip("/"):
        known = ", ".join(f"{name}://" for name in LIBRARIES)
        raise UserError(f"Expected a folder or an address with {known}, but got {path!r}; mount or copy it first.")
    cache_limit()  # a wrong one is refused here, and not taken for damage of each shard
    return RemotePath(path.rstrip("/"))


def join(folder: AnyPath, other: str) -> AnyPath:
    """What a file in `folder` names: an address, or a path relative to the folder, or to what a link to it names."""
    if "://" in other:
        return as_path(other)
    return folder / other if isinstance(folder, RemotePath) else Path(os.path.realpath(folder / other))


def open_file(path: AnyPath) -> int:
    """A descriptor of a whole file, wherever it is; raises FileNotFoundError, or as `RemotePath.open`."""
    return path.open() if isinstance(path, RemotePath) else os.open(path, os.O_RDONLY)


def list_folder(folder: RemotePath) -> tuple[RemotePath, dict[str, RemotePath]]:
    """The files of a folder by name, shards and their indices with size and version; and the folder itself.

    A pattern such as `https://host/folder/{00000..00127}.tar` stands for those shards, for servers that list nothing.

    Raises:
        UserError: there is nothing, or the store does not answer.
    """
    if folder.name.endswith(".tar"):
        shards = _expand(folder)
        parent = shards[0].parent
        wanted = [*shards, *(shard.with_suffix(".idx") for shard in shards), parent / DATASET_FILE]
        found = _list_each(wanted)
        if missing := [str(shard) for shard in shards if shard.name not in found]:
            raise UserError(f"Expected {len(shards)} shards {folder}, but {len(missing)} are missing: {missing[0]} ...")
        return parent, found
    try:
        listing = retry(folder.address, lambda: filesystem(folder.address).ls(folder.address, detail=True))
    except FileNotFoundError:
        raise UserError(f"Expected shards in {folder}, but there is no such folder; check the address.") from None
    files = {}
    for facts in listing:
        if facts["type"] == "file":
            name = facts["name"].rpartition("/")[2]
            files[name] = _with_facts(folder / name, facts)
    unknown = [file for file in files.values() if file.size is None and file.name.endswith((".tar", ".idx"))]
    return folder, files | _list_each(unknown)


def _expand(pattern: RemotePath) -> list[RemotePath]:
    """The shards that a pattern stands for.

    Raises:
        UserError: it is none, or names several folders, whose shards may have equal names.
    """
    braceexpand = import_extra("braceexpand", extra="remote").braceexpand
    try:
        shards = [RemotePath(address) for address in braceexpand(pattern.address)]
    except ValueError as error:
        raise UserError(f"Expected a pattern such as {{00000..00127}}.tar, but got {pattern}: {error}.") from None
    if len({shard.parent for shard in shards}) > 1:
        raise UserError(f"Expected shards of one folder, but {pattern} names several; name each folder by itself.")
    return shards


def _list_each(files: Sequence[RemotePath]) -> dict[str, RemotePath]:
    return {file.name: file for file in in_parallel(RemotePath.listed, files) if file is not None}


def _with_facts(path: RemotePath, facts: dict[str, Any]) -> RemotePath:
    versions = [str(facts[name]) for name in VERSIONS if facts.get(name)]
    return RemotePath(path.address, facts.get("size"), versions[0] if versions else "")
