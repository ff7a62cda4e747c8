"""The index beside a tar: where each sample lies and what its bytes hash to; 20 bytes a sample after a short header.

An index is written last, so it marks a complete shard. It holds the length of its tar, so a changed length shows at
opening; a flipped bit shows as a checksum that does not agree.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from depth_anything_train.data.remote import AnyPath, as_path, open_file
from depth_anything_train.data.schema import BadSample, BadShard, split_name
from depth_anything_train.data.tar import END_OF_ARCHIVE, FILE, is_hidden, walk

PIECE = 2**22
"""Bytes that are read and hashed at a time."""

_MAGIC, _VERSION = b"DAidx\0\0\0", 1
HEADER = struct.Struct("<8sIQQQ")  # magic, version, samples, bytes of the tar, xxh3 of the records
_RECORD = struct.Struct("<QIQ")


class Entry(NamedTuple):
    """Where a sample lies: its first tar header, the bytes up to the next sample, and their xxh3."""

    offset: int
    extent: int
    checksum: int


def pack_index(entries: list[Entry], tar_size: int) -> bytes:
    """The content of an index file."""
    records = b"".join(_RECORD.pack(*entry) for entry in entries)
    return HEADER.pack(_MAGIC, _VERSION, len(entries), tar_size, xxhash.xxh3_64_intdigest(records)) + records


def build_index(tar: str | AnyPath) -> bytes:
    """Index any webdataset tar, ours or somebody else's, by reading it once.

    Raises:
        BadShard: cut off, damaged, with links or unsafe names, or with a key whose members do not stand together.
        FileNotFoundError, or UserError if the store that holds it does not answer.
    """
    path = as_path(tar)
    try:
        with os.fdopen(open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise BadShard(f"{path} is empty; write it again.")
            return pack_index(list(_entries(file.fileno(), size)), size)
    except BadSample as error:
        raise BadShard(f"{path} cannot be used as a shard: {error}") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadShard(f"{path} cannot be read ({error.strerror}); check the disk or the network.") from None


def _entries(descriptor: int, size: int) -> Iterator[Entry]:
    """Sample after sample. Reading waits for the disk without Python's lock, so threads index beside each other."""
    keys: set[str] = set()
    extensions: set[str] = set()
    current = ""
    start = stop = end = 0  # of the sample; `end` of anything, a folder's entry too
    for member in walk(lambda position, length: read_at(descriptor, length, position), size):
        end = member.end
        if member.kind not in FILE or is_hidden(member.name):
            continue
        key, extension = split_name(member.name)
        if not keys or key != current:
            if key in keys:
                raise BadSample("duplicate_key", f"Key {key!r} comes twice, or its members do not stand together.")
            if keys:
                yield _hashed(descriptor, start, member.start)
            keys.add(key)
            start, current, extensions = member.start, key, set()
        if extension in extensions:
            raise BadSample("duplicate_key", f"Key {key!r} has two members {extension!r}.")
        extensions.add(extension)
        stop = end
    if keys:
        yield _hashed(descriptor, start, stop)
    if size - end < len(END_OF_ARCHIVE) or any(any(piece) for piece in _pieces(descriptor, end, size)):
        raise BadSample("truncated_tar", f"Expected zeros at the end, from byte {end:,} on; it was cut off or joined.")


def _hashed(descriptor: int, start: int, stop: int) -> Entry:
    if stop - start >= 2**32:
        raise BadSample("sample_size", f"The sample at byte {start:,} is larger than 4 GiB.")
    checksum = xxhash.xxh3_64()
    for piece in _pieces(descriptor, start, stop):
        checksum.update(piece)
    return Entry(start, stop - start, checksum.intdigest())


def _pieces(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    for position in range(start, stop, PIECE):
        yield read_at(descriptor, min(PIECE, stop - position), position)


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Bytes of a file from `offset` on, fewer only where it ends: the system gives 2 GiB at a time, or less."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


# -- Reading it again. -------------------------------------------------------------------------------------------------


def is_ours(beginning: bytes) -> bool:
    """Whether a file NAME.idx may be an index of ours, even one that was cut. (NVIDIA DALI has others of that name.)"""
    return _MAGIC.startswith(beginning[: len(_MAGIC)])


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
    if size < HEADER.size:
        raise BadShard(f"The index of {tar} is cut off; delete it and it is built again.")
    magic, version, count, expected, checksum = HEADER.unpack_from(header)
    if magic != _MAGIC or version != _VERSION or size != HEADER.size + count * _RECORD.size:
        raise BadShard(f"The index of {tar} is damaged or of another version; delete it and it is built again.")
    if tar_size not in (None, expected):
        raise BadShard(
            f"{tar} has {tar_size:,} bytes, its index says {expected:,}; it was cut off or changed: write it again, or "
            "if it was replaced on purpose delete its index."
        )
    return count, checksum


def entry_at(index: bytes, number: int) -> Entry:
    """Record `number` of an index."""
    return Entry(*_RECORD.unpack_from(index, HEADER.size + number * _RECORD.size))


def index_problem(index: bytes, tar: AnyPath, tar_size: int | None) -> str:
    """What is wrong with an index by itself and beside the length of its tar; nothing if all is well."""
    try:
        count, checksum = parse_header(index, len(index), tar, tar_size)
    except BadShard as error:
        return str(error)
    if xxhash.xxh3_64_intdigest(index[HEADER.size :]) != checksum:
        return f"The index of {tar} is damaged (checksum); delete it and it is built again."
    bounds = [(entry.offset, entry.offset + entry.extent) for entry in (entry_at(index, n) for n in range(count))]
    if any(end > start for (_, end), (start, _) in itertools.pairwise(bounds)):
        return f"The index of {tar} is damaged (order); delete it and it is built again."
    return ""


def tar_problem(tar: Path, index: bytes) -> str:
    """The first sample of a whole local tar that does not agree with a sound index; nothing if all do."""
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        for number in range(parse_header(index, len(index), tar, None)[0]):
            entry = entry_at(index, number)
            if _hashed(descriptor, entry.offset, entry.offset + entry.extent) != entry:
                return f"sample {number} does not agree with its checksum"
        return ""
    finally:
        os.close(descriptor)
