"""Writes one shard so that it is complete or absent, with the same bytes for the same samples."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import xxhash

from depth_anything_train.data.schema import BadSample, check_member_name, split_name
from depth_anything_train.data.shards import Entry, index_path, pack_index
from depth_anything_train.data.tar import END_OF_ARCHIVE, tar_bytes
from depth_anything_train.runtime import flush_folder, write_bytes


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
        self._temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
        self._file = open(self._temporary, "wb")
        self._entries: list[Entry] = []
        self._keys: set[str] = set()
        self._size = 0

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
        for extension in members:
            read_back = split_name(check_member_name(f"{key}.{extension}"))
            if read_back != (key, extension):
                raise BadSample("bad_key", f"Key {key!r} with member {extension!r} would read back as {read_back}.")
        sample = b"".join(tar_bytes(f"{key}.{extension}", data) for extension, data in members.items())
        self._file.write(sample)
        self._keys.add(key)
        self._entries.append(Entry(self._size, len(sample), xxhash.xxh3_64_intdigest(sample)))
        self._size += len(sample)

    def commit(self) -> None:
        """Flush the tar to disk, give it its name, then write its index."""
        self._file.write(END_OF_ARCHIVE)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        index_path(self.path).unlink(missing_ok=True)  # an older index must never stand beside a newer tar
        os.replace(self._temporary, self.path)
        flush_folder(self.path.parent)
        write_bytes(index_path(self.path), pack_index(self._entries, self._size + len(END_OF_ARCHIVE)))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # on a full disk closing fails once more
            self._file.close()
