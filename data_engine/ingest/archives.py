"""Images inside archives, read where they lie: zip, tar, tar.gz, LMDB. Nothing is ever extracted.

An archive is listed once, in its own order. From then on a member is read by its place, so that any process can read
any member. A tar.gz can only be read forward: a process that reads its members in their order inflates it once.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.tar import BLOCK, FILE, scan
from depth_anything_train.runtime import UserError, import_extra

ARCHIVES = ("zip", "tar", "tar.gz", "tgz", "mdb")
LARGEST_MEMBER = 2**29
"""Bytes; more is refused before it is read. No encoded image of as many pixels as are decoded comes near it."""
NO_FILE = -1
"""The size of a member that is a link, a device or a file with holes."""
OPEN_ARCHIVES = 16
"""How many archives a process keeps open."""

_ARCHIVE = re.compile(r"((^|/)data\.mdb|\.zip|\.tar|\.tar\.gz|\.tgz)$", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
_DAMAGE = (OSError, EOFError, UnicodeError, zlib.error, struct.error, zipfile.BadZipFile, NotImplementedError)
"""What gzip and zipfile raise over bytes that are damaged, or are packed in a way that they do not know."""


class Place(NamedTuple):
    """Where an archive holds a member: a byte (tar), a number (zip) or nothing but the name (LMDB), and its bytes."""

    name: str
    position: int
    size: int


class Archive(Protocol):
    """An open archive."""

    def places(self) -> Iterator[Place]:
        """Every member that is no folder, in the archive's order."""

    def read(self, place: Place) -> bytes:
        """The content of one member; fewer bytes where the archive ends."""


def is_archive(path: str) -> bool:
    """Whether a path's name is that of an archive; of an LMDB the `data.mdb` in its folder."""
    return _ARCHIVE.search(path) is not None


def archive_name(path: str) -> str:
    """The path of the folder that an archive would unpack to: `a/b.tar.gz` gives `a/b`, `a/data.mdb` gives `a`."""
    return _ARCHIVE.sub("", path)


def list_archive(path: Path) -> Iterator[Place]:
    """Every member of an archive that is no folder, in its order.

    Raises:
        UserError: cut off, damaged, or no archive.
    """
    try:
        yield from open_archive(path).places()
    except (*_DAMAGE, BadSample) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(f"Expected a whole archive in {path}, but {reason}; get it again, or move it away.") from None


def read_member(path: Path, place: Place) -> bytes:
    """The content of one member.

    Raises:
        BadSample: `not_a_file`, `member_size`, `encrypted` or `damaged_archive`.
    """
    if place.size == NO_FILE:
        raise BadSample("not_a_file", "It is a link or a device; only files are read.")
    if place.size > LARGEST_MEMBER:
        raise BadSample("member_size", f"Expected an image of at most {LARGEST_MEMBER:,} bytes, not {place.size:,}.")
    try:
        data = open_archive(path).read(place)
    except _DAMAGE as error:
        raise BadSample("damaged_archive", f"It cannot be read: {str(error) or type(error).__name__}.") from None
    if len(data) < place.size:
        raise BadSample("damaged_archive", f"Expected {place.size:,} bytes, but the archive holds {len(data):,}.")
    return data


@lru_cache(OPEN_ARCHIVES)
def open_archive(path: Path) -> Archive:
    """The archive, opened once in each process.

    Raises:
        OSError, BadZipFile: it cannot be opened.
    """
    if path.suffix.lower() == ".zip":
        return Zip(path)
    if path.suffix.lower() == ".mdb":
        return Lmdb(path)
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP  # whatever its name says
    return Tar(cast(IO[bytes], gzip.open(path) if packed else open(path, "rb", buffering=0)))


class Tar:
    """A tar, possibly compressed. Links are listed, but not followed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __del__(self) -> None:
        self._file.close()

    def places(self) -> Iterator[Place]:
        """Every member, after which there must be zeros: a tar that was cut off or joined is refused."""
        end = 0
        for member in scan(self._at):
            end = member.end
            size = member.size if member.kind in FILE else NO_FILE
            yield Place(member.name.removeprefix("./"), member.offset, size)
        zeros = len(self._at(end, BLOCK))
        self._file.seek(end)
        while (rest := self._file.read(2**20)) and not rest.strip(b"\0"):
            pass
        if zeros < BLOCK or rest:
            raise BadSample(
                "truncated_tar", f"there are no zeros from byte {end:,} to its end; it was cut off or joined"
            )

    def read(self, place: Place) -> bytes:
        """The bytes from the member's position."""
        return self._at(place.position, place.size)

    def _at(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        return self._file.read(size)


class Zip:
    """A zip. Names may be anything: they never become paths."""

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)
        self._members = self._file.infolist()

    def places(self) -> Iterator[Place]:
        """Every member by its number in the directory."""
        for number, info in enumerate(self._members):
            if not info.filename.endswith("/"):
                linked = stat.S_ISLNK(info.external_attr >> 16)
                yield Place(info.filename.removeprefix("./"), number, NO_FILE if linked else info.file_size)

    def read(self, place: Place) -> bytes:
        """At most as many bytes as the directory says, after comparing their checksum."""
        info = self._members[place.position]
        if info.flag_bits & 1:
            raise BadSample("encrypted", "It is encrypted; unpack the archive with its password.")
        return self._file.read(info)


class Lmdb:
    """An LMDB whose values are images, as LSUN has them. Nothing is written, not even its lock."""

    def __init__(self, path: Path) -> None:
        lmdb = import_extra("lmdb", extra="ingest")
        self._error = lmdb.Error
        with self._damage_named():
            self._file = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, create=False)
        pages, there = self._file.info()["last_pgno"] + 1, path.stat().st_size
        if (size := pages * self._file.stat()["psize"]) > there:  # reading beyond the end would kill the process
            raise EOFError(f"it has {there:,} of {size:,} bytes; it was cut off")

    def places(self) -> Iterator[Place]:
        """Every key. Sizes are not looked up: that would touch every value."""
        with self._damage_named(), self._file.begin() as transaction:
            for key in transaction.cursor().iternext(keys=True, values=False):
                yield Place(key.decode("utf-8", "surrogateescape"), 0, 0)

    def read(self, place: Place) -> bytes:
        """The value of a key."""
        with self._damage_named(), self._file.begin(buffers=True) as transaction:
            value = transaction.get(place.name.encode("utf-8", "surrogateescape"))
            if value is None or len(value) > LARGEST_MEMBER:
                raise EOFError("there is no such key" if value is None else f"its {len(value):,} bytes are too many")
            return bytes(value)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise OSError(str(error)) from None
