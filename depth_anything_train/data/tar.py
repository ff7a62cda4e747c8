"""Just enough tar: members written with fixed bytes, and read in place. Nothing is ever extracted.

We write ustar headers, and a pax header only for a name that ustar cannot hold. We read those, GNU long names, and
whatever else webdataset shards come with. Links, devices and names that leave the folder are refused.
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from depth_anything_train.data.schema import BadSample, check_member_name

BLOCK = 512
_ZEROS = bytes(BLOCK)
END_OF_ARCHIVE = 2 * _ZEROS

_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")  # name, size, checksum, type flag, magic, prefix

LARGEST_NAME = 2**20
"""Bytes of an extended header, which holds a name and a few numbers."""

FILE = (b"0", b"\0", b"7")
"""Kinds of an ordinary file: not a folder, a link, a device, or a file with holes."""

_FOLDER, _LINKS = b"5", (b"1", b"2")
_PAX, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK = b"x", b"g", b"L", b"K"


class Member(NamedTuple):
    """What the headers of a member say; places and sizes in bytes of the tar.

    Attributes:
        name: as it is written.
        kind: its type flag, one of `FILE` for an ordinary file.
        start: where its first header lies.
        offset: where its content begins.
        size: length of the content.
    """

    name: str
    kind: bytes
    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next member starts."""
        return self.offset + self.size + -self.size % BLOCK


def tar_bytes(name: str, data: bytes) -> bytes:
    """One member with header and padding. Time, owner and mode are fixed, so equal input gives equal bytes."""
    info = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, mode 0644, no user names
    info.size = len(data)
    return b"".join((info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), data, bytes(-len(data) % BLOCK)))


def iter_members(extent: bytes) -> Iterator[tuple[str, memoryview]]:
    """Name and content of each file in a piece of a tar that starts at a header and ends after a member.

    Hidden files are left out, as webdataset does. Contents are views of the piece, not copies.

    Raises:
        BadSample: as `walk`.
    """
    piece, position = memoryview(extent), 0
    while (header := extent[position : position + BLOCK]) and header != _ZEROS:
        name, size, kind = _parse(header, position)
        content = position + BLOCK
        end = content + size + -size % BLOCK
        if kind != b"0" or end > len(extent):
            yield from _iter_rest(piece[position:])
            return
        name = check_member_name(name)
        if not is_hidden(name):
            yield name, piece[content : content + size]
        position = end


def _iter_rest(piece: memoryview) -> Iterator[tuple[str, memoryview]]:
    """From where a member has more than one header, or is no whole file: takes twice as long as the plain ones."""
    for member in walk(lambda position, size: bytes(piece[position : position + size]), len(piece)):
        if member.kind in FILE and not is_hidden(member.name):
            yield member.name, piece[member.offset : member.offset + member.size]


def is_hidden(name: str) -> bool:
    """Whether a member is none of a sample: `.DS_Store`, or the `._photo.jpg` that macOS puts beside `photo.jpg`."""
    return name.rpartition("/")[2].startswith(".")


def walk(read: Callable[[int, int], bytes], length: int) -> Iterator[Member]:
    """Files and folders of a tar, or of a piece of one, in order, after checking that they lie in it whole.

    Args:
        read: as for `scan`.
        length: bytes of it.

    Raises:
        BadSample: `truncated_tar`, `damaged_tar`, `unsafe_name`, or `not_a_file` (link, device).
    """
    for member in scan(read):
        name, kind = member.name, member.kind
        if (end := member.end) > length:
            raise BadSample("truncated_tar", f"The tar is cut off inside {name!r}: byte {length:,} of {end:,}.")
        if kind in FILE:
            checked = check_member_name(name)
            yield member if checked == name else member._replace(name=checked)
        elif kind in (_FOLDER, _PAX_GLOBAL):
            yield member
        else:
            raise BadSample("not_a_file", f"Member {name!r} of type {kind!r} is a link or device; only files are read.")


def scan(read: Callable[[int, int], bytes]) -> Iterator[Member]:
    """What the headers of a tar say, one after another, up to the end-of-archive zeros or the end of the bytes.

    Args:
        read: the bytes at an offset, fewer where the tar ends; the offsets asked for never go back.

    Raises:
        BadSample: `damaged_tar`.
    """
    position = start = 0
    long_name: str | None = None
    long_size: int | None = None
    while (header := read(position, BLOCK)) and header != _ZEROS:
        name, size, kind = _parse(header, position)
        if kind in _LINKS:
            size = 0  # some writers state the size of what is linked to
        elif long_size is not None and kind in FILE:
            size = long_size
        offset = position + BLOCK
        position = offset + size + -size % BLOCK
        if kind in (_PAX, _GNU_LONG_NAME, _GNU_LONG_LINK):
            if size > LARGEST_NAME:
                raise BadSample("damaged_tar", f"Expected a name at byte {offset:,} of the tar, not {size:,} bytes.")
            content = read(offset, size)
            if kind == _PAX:
                long_name, long_size = _parse_pax(content, start)
            elif kind == _GNU_LONG_NAME:
                long_name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            continue
        yield Member(long_name or name, kind, start, offset, size)
        long_name = long_size = None
        start = position


def _parse(header: bytes, position: int) -> tuple[str, int, bytes]:
    """Name, size and type flag of one 512-byte header."""
    try:
        name, digits, checksum, kind, magic, prefix = _HEADER.unpack(header)
        large = digits[0] & 0x80  # base 256 instead of octal digits
        size = int.from_bytes(digits[1:], "big") if large else int(digits.strip(b"\0 ") or b"0", 8)
        # The sum counts the checksum's own bytes as spaces. adler32 keeps 1 + the sum of all bytes, modulo 65,521, in
        # its low half, twenty times as fast as `sum`.
        expected = 1 + int(checksum.strip(b"\0 "), 8) + sum(checksum) - len(checksum) * ord(" ")
        if size < 0 or zlib.adler32(header) & 0xFFFF != expected % 65521:
            raise ValueError("another checksum")
    except (ValueError, struct.error):
        about = f"Expected a tar header at byte {position:,}, but it is damaged or no tar."
        raise BadSample("damaged_tar", about) from None
    name = name.partition(b"\0")[0]
    if magic == b"ustar\0" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape"), size, kind


def _parse_pax(content: bytes, position: int) -> tuple[str | None, int | None]:
    """The `path` and `size` records of a pax header, each `LENGTH key=value newline`."""
    records: dict[bytes, bytes] = {}
    try:
        while content.strip(b"\0"):
            digits, _, _ = content.partition(b" ")
            record, content = content[: int(digits)], content[int(digits) :]
            if len(record) != int(digits) or not record.endswith(b"\n"):
                raise ValueError("a record that does not end")
            key, _, value = record[len(digits) + 1 : -1].partition(b"=")
            records[key] = value
        path, size = records.get(b"path"), records.get(b"size")
        found = path.decode("utf-8", "surrogateescape") if path else None, abs(int(size)) if size else None
    except ValueError:
        raise BadSample("damaged_tar", f"The extended header at byte {position:,} of the tar is damaged.") from None
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise BadSample("not_a_file", f"The member at byte {position:,} has holes (GNU sparse); pack it without them.")
    return found
