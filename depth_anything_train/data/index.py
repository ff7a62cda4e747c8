"""The index beside a tar: where each sample lies and what its bytes hash to; 20 bytes a sample after a short header.

An index is written last, so it marks a complete shard. It holds the length of its tar, so a changed length shows at
opening; a flipped bit shows as a checksum that does not agree.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import xxhash

from depth_anything_train.data.remote import AnyPath, RemotePath, as_path, open_file
from depth_anything_train.data.schema import BadSample, BadShard, split_name
from depth_anything_train.data.tar import END_OF_ARCHIVE, walk

_MAGIC, _VERSION = b"DAidx\0\0\0", 1
_HEADER = struct.Struct("<8sIQQQ")  # magic, version, samples, bytes of the tar, xxh3 of the records
_RECORD = struct.Struct("<QIQ")


class Entry(NamedTuple):
    """Where a sample lies: its first tar header, the bytes up to the next sample, and their xxh3."""

    offset: int
    extent: int
    checksum: int


@overload
def index_path(tar: Path) -> Path: ...
@overload
def index_path(tar: RemotePath) -> RemotePath: ...
def index_path(tar: AnyPath) -> AnyPath:
    """The index beside a tar."""
    return tar.with_suffix(".idx")


def pack_index(entries: list[Entry], tar_size: int) -> bytes:
    """The content of an index file."""
    records = b"".join(_RECORD.pack(*entry) for entry in entries)
    return _HEADER.pack(_MAGIC, _VERSION, len(entries), tar_size, xxhash.xxh3_64_intdigest(records)) + records


def build_index(tar: str | AnyPath) -> bytes:
    """Index any webdataset tar, ours or somebody else's, by reading it once.

    Raises:
        BadShard: cut off, damaged, with links or unsafe names, or with a key whose members do not stand together.
        FileNotFoundError, or UserError if the store that holds it does not answer.
    """
    path = as_path(tar)
    content = _map(open_file(path))
    if not content:
        raise BadShard(f"{path} is empty; write it again.")
    try:
        return pack_index(_entries(memoryview(content)), len(content))
    except BadSample as error:
        raise BadShard(f"{path} cannot be used as a shard: {error}") from None


def _map(descriptor: int) -> bytes | mmap.mmap:
    """The content of an open file, mapped into memory; closes the descriptor."""
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if os.fstat(descriptor).st_size else b""
    finally:
        os.close(descriptor)


def _entries(tar: memoryview) -> list[Entry]:
    members, end = walk(tar)
    rest = tar[end:]
    if len(rest) < len(END_OF_ARCHIVE) or np.frombuffer(rest, np.uint8).any():
        raise BadSample("truncated_tar", f"Expected zeros at the end, from byte {end:,} on; it was cut off or joined.")
    starts: dict[str, int] = {}
    extensions: set[str] = set()
    current: str | None = None
    for member in members:
        key, extension = split_name(member.name)
        if key != current:
            if key in starts:
                raise BadSample("duplicate_key", f"Key {key!r} comes twice, or its members do not stand together.")
            starts[key], extensions, current = member.start, set(), key
        if extension in extensions:
            raise BadSample("duplicate_key", f"Key {key!r} has two members {extension!r}.")
        extensions.add(extension)
    bounds = [*starts.values(), members[-1].end] if members else []
    entries = []
    for start, stop in itertools.pairwise(bounds):
        if stop - start >= 2**32:
            raise BadSample("sample_size", f"The sample at byte {start:,} is larger than 4 GiB.")
        entries.append(Entry(start, stop - start, xxhash.xxh3_64_intdigest(tar[start:stop])))
    return entries


# -- Reading it again. -------------------------------------------------------------------------------------------------


def open_index(tar: AnyPath) -> int:
    """Open the index of a tar for reading: beside it, or for a remote tar in the cache, where it stays for ever.

    A remote tar of others, which has none, is fetched once to be indexed.

    Raises:
        FileNotFoundError: a local tar has none, or a remote tar does not exist.
        BadShard: it does not belong to the remote tar, or cannot be made.
        UserError: the store does not answer.
    """
    beside = index_path(tar)
    if isinstance(beside, Path):
        return os.open(beside, os.O_RDONLY)
    assert isinstance(tar, RemotePath)

    def make(target: Path, listed: RemotePath) -> None:
        try:
            beside.fetch(target, check=lambda copy: index_problem(copy.read_bytes(), listed, listed.size))
        except FileNotFoundError:
            target.write_bytes(build_index(listed))
        if problem := index_problem(target.read_bytes(), listed, listed.size):
            raise BadShard(problem)

    return tar.keep(".idx", make)


def read_index(tar: AnyPath) -> bytes:
    """Content of the index of a tar. (Mapped into memory each would keep a descriptor.) Raises as `open_index`."""
    with os.fdopen(open_index(tar), "rb") as file:
        return file.read()


def read_header(tar: AnyPath) -> tuple[bytes, int]:
    """The first bytes of the index of a tar, and how many it has in all; raises as `open_index`."""
    descriptor = open_index(tar)
    try:
        return os.read(descriptor, _HEADER.size), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def parse_header(header: bytes, size: int, tar: AnyPath, tar_size: int | None) -> tuple[int, int]:
    """Number of samples and checksum of the records, after comparing index and tar by length.

    Args:
        header: the first bytes of the index, or all.
        size: bytes of the index.
        tar: for messages.
        tar_size: bytes of the tar, where they are known.

    Raises:
        BadShard: cut off, damaged, of another version, or of another tar.
    """
    if size < _HEADER.size:
        raise BadShard(f"The index of {tar} is cut off; delete it and it is built again.")
    magic, version, count, expected, checksum = _HEADER.unpack_from(header)
    if magic != _MAGIC or version != _VERSION or size != _HEADER.size + count * _RECORD.size:
        raise BadShard(f"The index of {tar} is damaged or of another version; delete it and it is built again.")
    if tar_size not in (None, expected):
        raise BadShard(
            f"{tar} has {tar_size:,} bytes, its index says {expected:,}; it was cut off or changed: write it again."
        )
    return count, checksum


def entry_at(index: bytes, number: int) -> Entry:
    """Record `number` of an index."""
    return Entry(*_RECORD.unpack_from(index, _HEADER.size + number * _RECORD.size))


def index_problem(index: bytes, tar: AnyPath, tar_size: int | None) -> str:
    """What is wrong with an index by itself and beside the length of its tar; nothing if all is well."""
    try:
        count, checksum = parse_header(index, len(index), tar, tar_size)
    except BadShard as error:
        return str(error)
    if xxhash.xxh3_64_intdigest(index[_HEADER.size :]) != checksum:
        return f"The index of {tar} is damaged (checksum); delete it and it is built again."
    bounds = [(entry.offset, entry.offset + entry.extent) for entry in (entry_at(index, n) for n in range(count))]
    if any(end > start for (_, end), (start, _) in itertools.pairwise(bounds)):
        return f"The index of {tar} is damaged (order); delete it and it is built again."
    return ""


def tar_problem(tar: Path, index: bytes) -> str:
    """Which sample of a whole local tar is the first that does not agree with a sound index; nothing if all do."""
    content = memoryview(_map(open_file(tar)))
    for number, entry in enumerate(entry_at(index, n) for n in range(parse_header(index, len(index), tar, None)[0])):
        if xxhash.xxh3_64_intdigest(content[entry.offset : entry.offset + entry.extent]) != entry.checksum:
            return f"sample {number} does not agree with its checksum"
    return ""
