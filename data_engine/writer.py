"""Writes one shard so that it is complete or absent, with the same bytes for the same samples."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from depth_anything_train.data.index import Entry, pack_index
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.schema import BadSample, BadShard, check_member_name, split_name
from depth_anything_train.data.shards import Shard
from depth_anything_train.data.tar import END_OF_ARCHIVE, is_hidden, tar_bytes
from depth_anything_train.files import flush_folder, naming, open_temporary, write_bytes

FLUSH_BYTES = 64 * 2**20
"""After this many bytes they are sent to the disk, so that little is left to wait for at the end of a large shard."""

READ_BYTES = 4 * 2**20
"""A shard is read back in pieces of so many bytes."""


@dataclass(frozen=True)
class Written:
    """A committed shard, as a manifest describes it: samples, bytes, and hashes of keys, file and index (hex)."""

    count: int
    bytes: int
    keys: str
    xxh3: str
    digest: str


class ShardWriter:
    """A tar shard in the making. Nothing is visible under its name before `commit`; its index comes last.

    with ShardWriter("out/00000.tar") as writer:
        writer.add("photo", {"jpg": image, "depth.png": label, "json": meta})
        writer.commit()

    Leaving without `commit` removes what was written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary, self._file = open_temporary(self.path)
        self._entries: list[Entry] = []
        self._keys: set[str] = set()
        self._size = self._flushed = 0
        self._file_hash, self._key_hash = xxhash.xxh3_64(), xxhash.xxh3_64()

    @property
    def count(self) -> int:
        """Samples added so far."""
        return len(self._entries)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; its members keep their order.

        Raises:
            BadSample: `duplicate_key`; `bad_key` if the key cannot be read back from the members' names.
        """
        if key in self._keys:
            raise BadSample("duplicate_key", f"Key {key!r} comes twice in {self.path.name}; keys must be unique.")
        if is_hidden(key):
            raise BadSample(
                "bad_key", f"Key {key!r} begins with a dot: readers would take its members for hidden files."
            )
        for extension in members:
            read_back = split_name(check_member_name(f"{key}.{extension}"))
            if read_back != (key, extension):
                raise BadSample("bad_key", f"Key {key!r} with member {extension!r} would read back as {read_back}.")
        sample = b"".join(tar_bytes(f"{key}.{extension}", data) for extension, data in members.items())
        self._write(sample)
        self._keys.add(key)
        self._key_hash.update(key.encode("utf-8", "surrogateescape") + b"\n")
        self._entries.append(Entry(self._size, len(sample), xxhash.xxh3_64_intdigest(sample)))
        self._size += len(sample)
        if self._size - self._flushed >= FLUSH_BYTES:
            self._flush()
            self._flushed = self._size

    def commit(self) -> Written:
        """Flush the tar to disk, read it back, give it its name, then write its index.

        Raises:
            BadShard: what lies on the disk is not what was written.
        """
        self._write(END_OF_ARCHIVE)
        self._flush()
        size = self._size + len(END_OF_ARCHIVE)
        index = pack_index(self._entries, size)
        shard = Shard(self._temporary, index)
        if (found := hash_file(self._temporary)) != self._file_hash.hexdigest():
            raise BadShard(f"{self.path} reads back as other bytes ({found}) than were written; check the disk.")
        index_path(self.path).unlink(missing_ok=True)  # an older index must never stand beside a newer tar
        os.replace(self._temporary, self.path)
        self._file.close()
        flush_folder(self.path.parent)
        write_bytes(index_path(self.path), index)
        return Written(self.count, size, self._key_hash.hexdigest(), self._file_hash.hexdigest(), shard.digest)

    def _write(self, content: bytes) -> None:
        with naming(self.path):
            self._file.write(content)
        self._file_hash.update(content)

    def _flush(self) -> None:
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk closing fails once more
            self._file.close()


def hash_file(path: Path) -> str:
    """xxh3 of a file's content, in hex."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
