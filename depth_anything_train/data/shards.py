"""Random access to webdataset tars: an index beside each tar, one pread a sample, a checksum on everything read.

The index `NAME.idx` of `NAME.tar` is a header and 20 bytes a sample. It is written last, so it marks a complete shard.
A flipped bit in a record or in the tar shows as a checksum that does not agree; a changed length shows at opening.
"""

from __future__ import annotations

import bisect
import itertools
import mmap
import os
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from depth_anything_train.data.schema import (
    DATASET_FILE,
    IMAGES,
    LABELLED,
    PSEUDO_LABELS,
    SCHEMA,
    UNFINISHED_FILE,
    BadSample,
    BadShard,
    Record,
    split_name,
)
from depth_anything_train.data.tar import END_OF_ARCHIVE, iter_members, walk
from depth_anything_train.runtime import ProgressBar, UserError, read_json, require_folder, write_bytes

OPEN_SHARDS = 128
"""How many shards a reader keeps open: far below the usual limit of 1024 files a process, two files a shard."""

_MAGIC, _VERSION = b"DAidx\0\0\0", 1
_HEADER = struct.Struct("<8sIQQQ")  # magic, version, samples, bytes of the tar, xxh3 of the records
_RECORD = struct.Struct("<QIQ")


class Entry(NamedTuple):
    """Where a sample lies: its first tar header, the bytes up to the next sample, and their xxh3."""

    offset: int
    extent: int
    checksum: int


def index_path(tar: Path) -> Path:
    """The index beside a tar."""
    return tar.with_suffix(".idx")


def pack_index(entries: list[Entry], tar_size: int) -> bytes:
    """The content of an index file."""
    records = b"".join(_RECORD.pack(*entry) for entry in entries)
    return _HEADER.pack(_MAGIC, _VERSION, len(entries), tar_size, xxhash.xxh3_64_intdigest(records)) + records


def build_index(tar: str | Path) -> bytes:
    """Index any webdataset tar, ours or somebody else's, by reading it once.

    Raises:
        BadShard: cut off, damaged, with links or unsafe names, or with a key whose members do not stand together.
    """
    path = Path(tar)
    if not path.stat().st_size:
        raise BadShard(f"{path} is empty; write it again.")
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return pack_index(_entries(memoryview(mapped)), len(mapped))
    except BadSample as error:
        raise BadShard(f"{path} cannot be used as a shard: {error}") from None


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


def _read_header(index: Path | bytes, tar: Path) -> tuple[int, int]:
    """Number of samples and checksum of the records, after comparing index and tar by length."""
    if isinstance(index, bytes):
        header, size = index[: _HEADER.size], len(index)
    else:
        with open(index, "rb", buffering=0) as file:
            header, size = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
    if len(header) < _HEADER.size:
        raise BadShard(f"The index of {tar} is cut off; delete it and it is built again.")
    magic, version, count, tar_size, checksum = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION or size != _HEADER.size + count * _RECORD.size:
        raise BadShard(f"The index of {tar} is damaged or of another version; delete it and it is built again.")
    actual = tar.stat().st_size
    if actual != tar_size:
        raise BadShard(
            f"{tar} has {actual:,} bytes, its index says {tar_size:,}; it was cut off or changed: write it again."
        )
    return count, checksum


class Shard:
    """One tar and its index. No lock and no shared position, so threads and forked workers may read at once.

    Args:
        tar: path of the tar.
        index: the index itself where it could not be written beside the tar.

    Raises:
        BadShard: index and tar do not belong together.
        UserError: the tar or its index does not exist.
    """

    def __init__(self, tar: str | Path, index: bytes | None = None) -> None:
        self.path = Path(tar)
        self._tar = -1
        try:
            self.count, self._checksum = _read_header(index or index_path(self.path), self.path)
            self._records: bytes | mmap.mmap = index or self._map_index()
            self._tar = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise UserError(f"Expected the shard {self.path} and its index, but {error.filename} is missing.") from None

    def _map_index(self) -> mmap.mmap:
        with open(index_path(self.path), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __del__(self) -> None:
        if self._tar >= 0:
            os.close(self._tar)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Record:
        return self.read(number)

    @property
    def digest(self) -> str:
        """Hash of the shard's content: of the index, whose records hold the checksum of every sample."""
        return f"{self._checksum:016x}"

    def entry(self, number: int) -> Entry:
        """Where sample `number` lies."""
        if not 0 <= number < self.count:
            raise IndexError(f"sample {number} of {self.count} in {self.path}")
        return Entry(*_RECORD.unpack_from(self._records, _HEADER.size + number * _RECORD.size))

    def read(self, number: int) -> Record:
        """Read and verify one sample.

        Raises:
            BadSample: `damaged_sample`, or as `tar.walk`.
        """
        entry = self.entry(number)
        data = os.pread(self._tar, entry.extent, entry.offset)
        if xxhash.xxh3_64_intdigest(data) != entry.checksum:
            where = f"Sample {number} of {self.path}, {entry.extent:,} bytes from {entry.offset:,},"
            raise BadSample("damaged_sample", f"{where} does not agree with its checksum; write the shard again.")
        members: dict[str, bytes] = {}
        key = ""
        for name, content in iter_members(data):
            key, extension = split_name(name)
            members[extension] = bytes(content)
        return Record(key, members)

    def check_index(self) -> None:
        """Compare the index with its checksum, and the tar's end with the last record. Reading does not need this.

        Raises:
            BadShard: they do not agree.
        """
        records = self._records[_HEADER.size :]
        if xxhash.xxh3_64_intdigest(records) != self._checksum:
            raise BadShard(f"The index of {self.path} is damaged (checksum); delete it and it is built again.")
        end = 0
        for number in range(self.count):
            entry = self.entry(number)
            if entry.offset < end:
                raise BadShard(f"The index of {self.path} is damaged (order); delete it and it is built again.")
            end = entry.offset + entry.extent
        rest = os.pread(self._tar, len(END_OF_ARCHIVE), end)
        if rest != END_OF_ARCHIVE:
            raise BadShard(f"{self.path} has no end-of-archive zeros at byte {end:,}; write it again.")


class ShardFolder:
    """All shards of a folder as one sequence of samples, in the order of their names.

    Opening reads one small header a shard; the shards themselves are opened when first read and at most
    `OPEN_SHARDS` stay open. Tars of others, which have no index, are indexed on first sight: beside the tar where the
    folder can be written to, else in memory.

    Attributes:
        path: the folder.
        shards: path of each tar.
        info: content of dataset.json; a folder without one counts as images of others.

    Raises:
        UserError: no such folder, no tars, not finished, or written by a newer version.
        BadShard: a tar and its index do not belong together.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_folder(path, what="shards")
        self.info = read_info(self.path)
        self.shards = sorted(file for file in self.path.glob("[!.]*.tar") if file.is_file())
        if not self.shards:
            raise UserError(f"Expected shards (*.tar) in {self.path}, but there are none; was `prepare` run?")
        self._unwritten = _index_missing(self.shards)
        counts = [_read_header(self._unwritten.get(tar.name) or index_path(tar), tar)[0] for tar in self.shards]
        self.starts = [0, *itertools.accumulate(counts)]
        """Index of the first sample of each shard, and the number of samples."""
        self._make_cache()

    def _make_cache(self) -> None:
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(
            lambda number: Shard(self.shards[number], self._unwritten.get(self.shards[number].name))
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_cache()

    def __len__(self) -> int:
        return self.starts[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the shard that holds sample `index`, and the sample's number inside it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.path}")
        shard = bisect.bisect_right(self.starts, index) - 1
        return shard, index - self.starts[shard]

    def shard(self, number: int) -> Shard:
        """Open shard `number`, or take it from those that are open."""
        return self._shard(number)

    def __getitem__(self, index: int) -> Record:
        shard, number = self.locate(index)
        return self.shard(shard).read(number)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def read_info(folder: Path) -> dict[str, Any]:
    """Content of dataset.json; a folder of tars without one counts as images of others.

    Raises:
        UserError: not finished, damaged, or of another schema.
    """
    if not (folder / DATASET_FILE).exists():
        if (folder / UNFINISHED_FILE).exists():
            raise UserError(f"The shards in {folder} are not finished; run the same `prepare` again and it continues.")
        return {"schema": SCHEMA, "kind": IMAGES, "source": folder.name}
    info: dict[str, Any] = read_json(folder / DATASET_FILE, keys=("schema",))
    if info.get("schema") != SCHEMA:
        found = info.get("schema")
        raise UserError(f"Expected shards of schema {SCHEMA} in {folder}, but they say {found}; update the program.")
    if info.get("kind") not in (LABELLED, IMAGES, PSEUDO_LABELS):
        raise UserError(f"{folder / DATASET_FILE} is damaged: it says kind {info.get('kind')!r}; write it again.")
    return info


def _index_missing(shards: list[Path]) -> dict[str, bytes]:
    """Index the tars that have no index. Returns the indices that could not be written, by name of the tar."""
    missing = [tar for tar in shards if not index_path(tar).exists()]
    unwritten = {}
    if missing:
        with ProgressBar("indexing", len(missing)) as bar:
            for tar in missing:
                index = build_index(tar)
                try:
                    write_bytes(index_path(tar), index)
                except OSError:  # read-only folder
                    unwritten[tar.name] = index
                bar.advance()
    return unwritten
