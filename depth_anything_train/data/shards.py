"""Random access to webdataset tars: an index beside each tar, one pread a sample, a checksum on everything read.

The tars are on this machine, or elsewhere and come through the local cache; see `remote`.
"""

from __future__ import annotations

import bisect
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from threading import Thread

import numpy as np
import xxhash

from depth_anything_train.data.file_cache import cache_limit
from depth_anything_train.data.folders import find_shards, images_of, missing_shards, read_info
from depth_anything_train.data.index import Entry, entry_at, index_problem, parse_header, read_at, tar_problem
from depth_anything_train.data.index_files import make_indices, read_header, read_index
from depth_anything_train.data.remote import AnyPath, RemotePath, as_path
from depth_anything_train.data.schema import (
    DATASET_FILE,
    IMAGES,
    LABELLED,
    SEGMENTED,
    BadSample,
    BadShard,
    Record,
    split_name,
)
from depth_anything_train.data.store import StoreError
from depth_anything_train.data.tar import END_OF_ARCHIVE, iter_members
from depth_anything_train.parallel import in_parallel
from depth_anything_train.runtime import ProgressBar, UserError, is_first_process

OPEN_SHARDS, OPEN_REMOTE_SHARDS = 256, 16
"""How many shards a process keeps open, of all its folders together: one file each, and the index in memory. A copy of
a remote shard takes its space while it is open, even when the cache has let it go; if not, it is soon opened again."""


class Shard:
    """One tar and its index. No lock and no shared position, so threads and forked workers may read at once.

    Args:
        tar: path or address of the tar.
        index: the index itself where it lies nowhere yet.

    Raises:
        BadShard: tar or index does not exist or cannot be read or fetched, or they do not belong together.
        UserError: nothing can be written to the cache.
    """

    _tar = -1

    def __init__(self, tar: str | AnyPath, index: bytes | None = None) -> None:
        self.path = as_path(tar)
        try:
            self._index = index or read_index(self.path)
            self._tar = self._open()
        except FileNotFoundError as error:
            what = "of another program" if os.path.exists(error.filename) else "missing"
            raise BadShard(f"Expected the shard {self.path} and its index, but {error.filename} is {what}.") from None
        except StoreError as error:
            raise BadShard(str(error)) from None
        except OSError as error:
            raise BadShard(f"{self.path} cannot be opened ({error.strerror}); check the disk or the network.") from None
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
            BadSample: `damaged_sample`, `hidden_file`, or as `tar.walk`.
            BadShard: the disk or the network does not give it.
        """
        entry = self.entry(number)
        data = self._read(entry.extent, entry.offset)
        if xxhash.xxh3_64_intdigest(data) != entry.checksum:
            where = f"Sample {number} of {self.path}, {entry.extent:,} bytes from {entry.offset:,},"
            raise BadSample("damaged_sample", f"{where} does not agree with its checksum; write the shard again.")
        members: dict[str, memoryview] = {}
        key = ""
        for name, content in iter_members(data):
            key, extension = split_name(name)
            members[extension] = content
        if not members and any(data[:1]):  # there is a header, of what is left out
            about = f"Sample {number} of {self.path} is a hidden file, which an older index counts"
            raise BadSample("hidden_file", f"{about}; delete the index and it is built again without them.")
        return Record(key, members)

    def _read(self, length: int, offset: int) -> bytes:
        try:
            return read_at(self._tar, length, offset)
        except OSError:  # a server of files may have forgotten what was open (ESTALE): once more, under the same number
            try:
                again = self._open()
                os.dup2(again, self._tar, inheritable=False)
                os.close(again)
                return read_at(self._tar, length, offset)
            except OSError as error:
                what = f"{self.path} cannot be read ({error.strerror})"
                raise BadShard(f"{what}; check the disk or the network, then run again.") from None

    def check_index(self) -> None:
        """Compare the index with its checksum, and the tar's end with the last record. Reading does not need this.

        Raises:
            BadShard: index and checksum, or index and tar, do not agree.
        """
        if problem := index_problem(self._index, self.path, None):
            raise BadShard(problem)
        last = self.entry(self.count - 1) if self.count else Entry(0, 0, 0)
        end = last.offset + last.extent
        rest = self._read(len(END_OF_ARCHIVE), end)
        if rest != END_OF_ARCHIVE:
            raise BadShard(f"{self.path} has no end-of-archive zeros at byte {end:,}; write it again.")


class ShardFolder:
    """All shards of a folder as one sequence of samples, in the order of their names.

    Opening reads one small header a shard; the shards themselves are opened when first read, and a process keeps those
    open that it used last, whatever folders they are of. Tars of others, which have no index, are indexed on first
    sight: beside the tar, or in the cache; see `index_files`.

    Args:
        path: folder, or an address such as s3://bucket/folder or https://host/folder/{00000..00127}.tar.

    Attributes:
        path: the folder.
        address: what opens the same shards again: the folder, or the pattern that stands for some of its shards.
        shards: path of each tar.
        files: names of all files in the folder.
        info: content of dataset.json; a folder without one counts as images of others.

    Raises:
        UserError: no such folder, no tars, not finished, incomplete, or written by a newer version.
        BadShard: a tar and its index do not belong together.
    """

    def __init__(self, path: str | AnyPath) -> None:
        self.path, self.shards, self.files = find_shards(path)
        by_pattern = isinstance(self.path, RemotePath) and str(path).endswith(".tar")
        self.address = as_path(path) if by_pattern else self.path
        self.info = read_info(self.path)
        headers = self._read_headers()
        self.starts = [0, *itertools.accumulate(count for count, _ in headers)]
        """Index of the first sample of each shard, and the number of samples."""
        self._checksums = [checksum for _, checksum in headers]
        if not by_pattern:  # which may leave some out
            self._refuse_if_incomplete()

    def _read_headers(self) -> list[tuple[int, int]]:
        """Number of samples in each shard, and the checksum of its index; those that have none are indexed."""
        headers: list[tuple[int, int] | None] = []
        shown = isinstance(self.path, RemotePath) and is_first_process()
        with ProgressBar("indices", len(self.shards), shown=shown) as bar:
            for header in in_parallel(read_header, self.shards, perhaps_quick=True):
                headers.append(header)
                bar.advance()
        if isinstance(self.path, Path) and None in headers:
            return make_indices(self.path, [tar for tar in self.shards if isinstance(tar, Path)])
        return [header for header in headers if header is not None]

    def _refuse_if_incomplete(self) -> None:
        shards, count = self.info.get("shards", len(self.shards)), self.info.get("count", len(self))
        if (shards, count) != (len(self.shards), len(self)):
            missing = next((f", without {name}" for name in missing_shards(self.info, self.files)), "")
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
        return _opened(isinstance(tar, RemotePath))(tar, self._checksums[number])

    def fetch(self, number: int) -> None:
        """Open shard `number` if it is elsewhere, so that it is in the cache."""
        if isinstance(self.shards[number], RemotePath):
            with suppress(Exception):  # it is tried again when its turn comes, where somebody hears of it
                self.shard(number)

    def fetch_ahead(self, number: int) -> None:
        """Begin to fetch shard `number` in a thread, if it is elsewhere; `shard` then waits for it."""
        Thread(target=self.fetch, args=(number,), daemon=True).start()  # who is asked to leave does not wait for it

    def digest(self, number: int) -> str:
        """Hash of the content of shard `number`, as `Shard.digest`, without opening it."""
        return f"{self._checksums[number]:016x}"

    @property
    def content(self) -> str:
        """Hash of the content of all shards, without opening them."""
        return xxhash.xxh3_64_hexdigest(np.array(self._checksums, np.uint64).tobytes())

    def fits_cache(self) -> bool:
        """Whether all shards may lie in the local cache at the same time; those of this machine need none.

        Raises:
            UserError: the limit of the cache is no number.
        """
        sizes = [shard.size or 0 for shard in self.shards if isinstance(shard, RemotePath)]
        return not sizes or sum(sizes) <= cache_limit()

    def open_images(self) -> ShardFolder:
        """The folder with the images: this one, or for pseudo labels the one they were made from.

        Raises:
            UserError: as opening any folder, or it holds no images.
        """
        address = images_of(self.path, self.info)
        images = self if address == self.path else ShardFolder(address)
        if images.info["kind"] not in (IMAGES, LABELLED, SEGMENTED):
            raise UserError(f"Expected image shards in {images.path}, but its dataset.json says {images.info['kind']}.")
        return images

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
def _opened(remote: bool) -> Callable[[AnyPath, int], Shard]:
    """The shards that are open in this process; the checksum tells a shard from one that took its place."""
    return lru_cache(OPEN_REMOTE_SHARDS if remote else min(OPEN_SHARDS, files_allowed() // 4))(_open_known)


def _open_known(tar: AnyPath, checksum: int) -> Shard:
    """Open the shard that lay there when its folder was opened: an order, or a manifest, counts on its samples.

    Raises:
        BadShard: another has taken its place. Beside it as `Shard`.
    """
    shard = Shard(tar)
    if shard._checksum != checksum:
        raise BadShard(f"{tar} was replaced while it was in use, and its samples are others now; run again.")
    return shard
