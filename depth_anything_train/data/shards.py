"""Random access to webdataset tars: an index beside each tar, one pread a sample, a checksum on everything read.

The tars are on this machine, or elsewhere and come through the local cache; see `remote`.
"""

from __future__ import annotations

import bisect
import itertools
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import xxhash

from depth_anything_train.data.file_cache import cache_limit
from depth_anything_train.data.index import (
    Entry,
    build_index,
    entry_at,
    index_path,
    index_problem,
    parse_header,
    read_header,
    read_index,
    tar_problem,
)
from depth_anything_train.data.remote import AnyPath, RemotePath, as_path, in_parallel, list_folder
from depth_anything_train.data.schema import (
    DATASET_FILE,
    IMAGES,
    KINDS,
    SCHEMA,
    UNFINISHED_FILE,
    BadSample,
    BadShard,
    Record,
    split_name,
)
from depth_anything_train.data.tar import END_OF_ARCHIVE, iter_members
from depth_anything_train.runtime import ProgressBar, UserError, read_json, require_folder, write_bytes

OPEN_SHARDS, OPEN_REMOTE_SHARDS = 256, 16
"""How many shards a process keeps open, of all its folders together: one file each, and the index in memory. A copy of
a remote shard takes its space while it is open, even when the cache has let it go; if not, it is soon opened again."""


class Shard:
    """One tar and its index. No lock and no shared position, so threads and forked workers may read at once.

    Args:
        tar: path or address of the tar.
        index: the index itself where it could not be written beside the tar.

    Raises:
        BadShard: index and tar do not belong together.
        UserError: the tar or its index does not exist or cannot be fetched.
    """

    def __init__(self, tar: str | AnyPath, index: bytes | None = None) -> None:
        self.path = as_path(tar)
        self._tar = -1
        try:
            self._index = index or read_index(self.path)
            self._tar = self._open()
        except FileNotFoundError as error:
            raise UserError(f"Expected the shard {self.path} and its index, but {error.filename} is missing.") from None
        size = os.fstat(self._tar).st_size
        self.count, self._checksum = parse_header(self._index, len(self._index), self.path, size)

    def _open(self) -> int:
        if isinstance(self.path, RemotePath):
            return self.path.open(check=lambda copy: tar_problem(copy, self._index))
        return os.open(self.path, os.O_RDONLY)

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
        return entry_at(self._index, number)

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
        if problem := index_problem(self._index, self.path, None):
            raise BadShard(problem)
        last = self.entry(self.count - 1) if self.count else Entry(0, 0, 0)
        end = last.offset + last.extent
        rest = os.pread(self._tar, len(END_OF_ARCHIVE), end)
        if rest != END_OF_ARCHIVE:
            raise BadShard(f"{self.path} has no end-of-archive zeros at byte {end:,}; write it again.")


class ShardFolder:
    """All shards of a folder as one sequence of samples, in the order of their names.

    Opening reads one small header a shard; the shards themselves are opened when first read, and a process keeps those
    open that it used last, whatever folders they are of. Tars of others, which have no index, are indexed on first
    sight: beside the tar where the folder can be written to, else in memory, or in the cache for a folder that is
    elsewhere.

    Args:
        path: folder, or an address such as s3://bucket/folder or https://host/folder/{00000..00127}.tar.

    Attributes:
        path: the folder.
        shards: path of each tar.
        files: names of all files in the folder.
        info: content of dataset.json; a folder without one counts as images of others.

    Raises:
        UserError: no such folder, no tars, not finished, incomplete, or written by a newer version.
        BadShard: a tar and its index do not belong together.
    """

    def __init__(self, path: str | AnyPath) -> None:
        self.path, self.shards, self.files = find_shards(path)
        self.info = read_info(self.path)
        self._unwritten = {} if isinstance(self.path, RemotePath) else _index_missing(self.shards, self.files)
        headers = self._read_headers()
        self.starts = [0, *itertools.accumulate(count for count, _ in headers)]
        """Index of the first sample of each shard, and the number of samples."""
        self._checksums = [checksum for _, checksum in headers]
        if not (isinstance(self.path, RemotePath) and str(path).endswith(".tar")):  # a pattern may leave some out
            self._refuse_if_incomplete()

    def _read_headers(self) -> list[tuple[int, int]]:
        """Number of samples in each shard, and the checksum of its index."""
        if not isinstance(self.path, RemotePath):
            return [self._read_header(tar) for tar in self.shards]
        headers = []
        with ProgressBar("indices", len(self.shards)) as bar:
            for header in in_parallel(self._read_header, self.shards):
                headers.append(header)
                bar.advance()
        return headers

    def _read_header(self, tar: AnyPath) -> tuple[int, int]:
        index = self._unwritten.get(tar.name)
        header, size = read_header(tar) if index is None else (index, len(index))
        return parse_header(header, size, tar, tar.size if isinstance(tar, RemotePath) else tar.stat().st_size)

    def _refuse_if_incomplete(self) -> None:
        shards, count = self.info.get("shards", len(self.shards)), self.info.get("count", len(self))
        if (shards, count) != (len(self.shards), len(self)):
            names = (f"{number:05d}.tar" for number in range(shards))
            missing = next((f", without {name}" for name in names if name not in self.files), "")
            raise UserError(
                f"Expected {shards} shards with {count} samples in {self.path} by its {DATASET_FILE}, but there are "
                f"{len(self.shards)} with {len(self)}{missing}; "
                "copy them again, or prepare them into another folder."
            )

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
        tar = self.shards[number]
        opened = _opened(OPEN_REMOTE_SHARDS if isinstance(tar, RemotePath) else min(OPEN_SHARDS, files_allowed() // 4))
        return opened(tar, self._checksums[number], self._unwritten.get(tar.name))

    def digest(self, number: int) -> str:
        """Hash of the content of shard `number`, as `Shard.digest`, without opening it."""
        return f"{self._checksums[number]:016x}"

    def fits_cache(self) -> bool:
        """Whether all shards may lie in the local cache at the same time; those of this machine need none.

        Raises:
            UserError: the limit of the cache is no number.
        """
        sizes = [shard.size or 0 for shard in self.shards if isinstance(shard, RemotePath)]
        return not sizes or sum(sizes) <= cache_limit()

    def __getitem__(self, index: int) -> Record:
        shard, number = self.locate(index)
        return self.shard(shard).read(number)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def files_allowed() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft


@cache
def _opened(most: int) -> Callable[[AnyPath, int, bytes | None], Shard]:
    """The shards that are open in this process; the checksum tells a shard from one that took its place."""
    return lru_cache(most)(lambda tar, checksum, index: Shard(tar, index))


def find_shards(path: str | AnyPath) -> tuple[AnyPath, list[AnyPath], frozenset[str]]:
    """A folder, its tars in the order of their names, and the names of all its files.

    Raises:
        UserError: no such folder, no tars, or an address that cannot be read.
    """
    folder = as_path(path)
    files: Mapping[str, AnyPath]
    if isinstance(folder, RemotePath):
        folder, files = list_folder(folder)
    else:
        local = folder = require_folder(folder, what="shards")
        with os.scandir(local) as entries:
            files = {entry.name: local / entry.name for entry in entries if entry.is_file()}
    shards = [files[name] for name in sorted(files) if name.endswith(".tar") and not name.startswith(".")]
    if not shards:
        raise UserError(f"Expected shards (*.tar) in {folder}, but there are none; was `prepare` run?")
    return folder, shards, frozenset(files)


def read_info(folder: AnyPath) -> dict[str, Any]:
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
    if info.get("kind") not in KINDS:
        raise UserError(f"{folder / DATASET_FILE} is damaged: it says kind {info.get('kind')!r}; write it again.")
    for name, kind in (("shards", int), ("count", int), ("images", str | None)):
        if name in info and not isinstance(info[name], kind):
            raise UserError(f"{folder / DATASET_FILE} is damaged: it says {name} {info[name]!r}; write it again.")
    return info


def _index_missing(shards: list[AnyPath], files: frozenset[str]) -> dict[str, bytes]:
    """Index the tars that have no index. Returns the indices that could not be written, by name of the tar."""
    missing = [tar for tar in shards if index_path(tar).name not in files]
    unwritten = {}
    if missing:
        with ProgressBar("indexing", len(missing)) as bar:
            for tar in missing:
                index = build_index(tar)
                try:
                    write_bytes(str(index_path(tar)), index)
                except OSError:  # read-only folder
                    unwritten[tar.name] = index
                bar.advance()
    return unwritten
