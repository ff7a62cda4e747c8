"""Which photographs there are in a folder, in archives or on a list: millions of them in a few arrays."""

from __future__ import annotations

import bisect
import itertools
import re
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from data_engine.ingest.archives import (
    ARCHIVES,
    LARGEST_MEMBER,
    Place,
    archive_name,
    is_archive,
    list_archive,
    open_archive,
    read_member,
)
from data_engine.ingest.base import make_key, read_file, stem, walk_files
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, UNFINISHED_FILE, BadSample, check_member_name
from depth_anything_train.files import require_folder
from depth_anything_train.runtime import ProgressBar, UserError, console

LISTED_AT_ONCE = 10_000
"""Files between two steps of the progress bar."""

ENCODING = ("utf-8", "surrogateescape")
"""Of names as bytes: any file name comes back as it was."""

_IMAGES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
_HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")


class Photo(NamedTuple):
    """One file below the root."""

    key: str
    path: str
    unique: bool

    def __str__(self) -> str:
        return self.path

    def read(self, folder: Path) -> bytes:
        """The file's bytes.

        Raises:
            BadSample: `unreadable_file`, `not_a_file`, `member_size`.
        """
        file = folder / self.path
        if file.exists() and not file.is_file():  # reading a pipe would wait for ever
            raise BadSample("not_a_file", f"{file.name} is a folder, a pipe or a device.")
        if file.exists() and (size := file.stat().st_size) > LARGEST_MEMBER:
            raise BadSample("member_size", f"Expected an image of at most {LARGEST_MEMBER:,} bytes, not {size:,}.")
        return read_file(file)


class Packed(NamedTuple):
    """One member of an archive below the root."""

    key: str
    archive: str
    place: Place
    unique: bool

    def __str__(self) -> str:
        return f"{self.place.name} in {self.archive}"

    def read(self, folder: Path) -> bytes:
        """The member's bytes.

        Raises:
            BadSample: `unsafe_name`, or as `archives.read_member`.
        """
        check_member_name(self.place.name)
        return read_member(folder / self.archive, self.place)


class Part:
    """Some photographs of a listing: files, or all members of one archive.

    Args:
        archive: its path below the root; "" where the photographs are files.
        folder: what the keys of its members begin with.
    """

    def __init__(self, archive: str = "", folder: str = "") -> None:
        self.archive, self.folder = archive, folder
        self._names = bytearray()
        self._ends, self._positions, self._sizes = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add_file(self, path: str) -> None:
        """Append a file."""
        self._names += path.encode(*ENCODING)
        self._ends.append(len(self._names))

    def add_member(self, place: Place) -> None:
        """Append a member of the archive."""
        self.add_file(place.name)
        self._positions.append(place.position)
        self._sizes.append(place.size)

    def key(self, name: str) -> str:
        """The key of the photograph of that name."""
        return make_key(stem(self.folder + name))

    def names(self, first: int, last: int) -> Iterator[str]:
        """The names of photographs `first` to `last`, that one excluded."""
        start = self._ends[first - 1] if first else 0
        for end in self._ends[first:last]:
            yield self._names[start:end].decode(*ENCODING)
            start = end

    def items(self, first: int, last: int, repeats: Container[int]) -> Iterator[Photo | Packed]:
        """Photographs `first` to `last`, that one excluded; the key of those in `repeats` is not unique."""
        for number, name in enumerate(self.names(first, last), first):
            unique = number not in repeats
            if self.archive:
                place = Place(name, self._positions[number], self._sizes[number])
                yield Packed(self.key(name), self.archive, place, unique)
            else:
                yield Photo(self.key(name), name, unique)


class Listing(Sequence[Photo | Packed]):
    """All photographs of some parts as one sequence, made when they are asked for; a slice is a list.

    A file takes 8 bytes beside its name and a member 24, where objects would take 300.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = [part for part in parts if part]
        self._starts = [0, *itertools.accumulate(map(len, self._parts))]
        self._repeats = self._find_repeats()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            position = range(len(self))[index]
            return next(self._between(position, position + 1))
        first, last, step = index.indices(len(self))
        return list(self._between(first, last)) if step == 1 else [self[n] for n in range(first, last, step)]

    def __iter__(self) -> Iterator[Photo | Packed]:
        return self._between(0, len(self))

    def _between(self, first: int, last: int) -> Iterator[Photo | Packed]:
        for number in range(bisect.bisect_right(self._starts, first) - 1, len(self._parts)):
            start, part = self._starts[number], self._parts[number]
            if start >= last:
                break
            yield from part.items(max(first - start, 0), min(last - start, len(part)), self._repeats[number])

    def _find_repeats(self) -> list[set[int]]:
        """Of each part, the photographs whose key one before them has. Hashes are held, not ten million keys."""
        keys = (part.key(name) for part in self._parts for name in part.names(0, len(part)))
        hashes = np.fromiter((xxhash.xxh3_64_intdigest(key.encode(*ENCODING)) for key in keys), np.uint64, len(self))
        values, counts = np.unique(hashes, return_counts=True)
        repeats: list[set[int]] = [set() for _ in self._parts]
        seen: set[str] = set()
        for position in np.flatnonzero(np.isin(hashes, values[counts > 1])).tolist():
            part = bisect.bisect_right(self._starts, position) - 1
            number = position - self._starts[part]
            key = self._parts[part].key(next(self._parts[part].names(number, number + 1)))
            if key in seen:
                repeats[part].add(number)
            seen.add(key)
        return repeats


def list_photos(root: Path) -> Listing:
    """All photographs of a folder, an archive, or a text file with one path a line.

    Of a folder these are the image files at any depth; where there are none, the members of the archives. A list may
    name both; its paths are relative to its folder.

    Raises:
        UserError: `root` is none of these, or an archive is damaged.
    """
    if not root.is_file():
        parts = _in_folder(require_folder(root, what="photographs"))
    elif is_archive(root.name):
        parts = [Part(root.name)]
    elif root.suffix.lower() == ".txt":
        parts = list(_on_list(root))
    else:
        raise UserError(f"Expected a folder, an archive ({', '.join(ARCHIVES)}) or a list (txt) as root, not {root}.")
    open_archive.cache_clear()  # an archive may have changed since it was opened
    folder = root.parent if root.is_file() else root
    if archives := list({part.archive: part for part in parts if part.archive}.values()):  # a list may name one twice
        with ProgressBar("listing", len(archives)) as bar, ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda part: _add_members(part, folder), archives):
                bar.advance()
    return Listing(parts)


def _in_folder(root: Path) -> list[Part]:
    files, archives = Part(), []
    with ProgressBar("listing", None) as bar:
        for path in walk_files(root, (*IMAGE_EXTENSIONS, *ARCHIVES)):
            if path.lower().endswith(_IMAGES):
                files.add_file(path)
                if len(files) % LISTED_AT_ONCE == 0:
                    bar.advance(LISTED_AT_ONCE)
            elif is_archive(path) and not (root / path).with_name(UNFINISHED_FILE).exists():  # no shards of ours
                archives.append(_archive(path))
    if not files:
        return archives
    if archives:
        advice = "to take archives, name one as root=, or several in a list"
        console.print(f"{len(archives)} archives lie beside the photographs of {root} and are left out; {advice}.")
    return [files]


def _on_list(root: Path) -> Iterator[Part]:
    files = Part()
    archives: dict[Path, Part] = {}
    with open(root, encoding="utf-8-sig", errors=ENCODING[1]) as lines:
        for line in lines:
            path = line.strip()
            if "\0" in path:
                raise UserError(f"Expected {root} to hold one path a line, but it is no text.")
            if is_archive(path):
                yield from (files, archives.setdefault(Path(path), _archive(path)))
                files = Part()
            elif path:
                files.add_file(path)
    yield files


def _archive(path: str) -> Part:
    name = archive_name(path)
    return Part(path, name and f"{name}/")


def _add_members(part: Part, folder: Path) -> None:
    """Every image of an archive by its name's ending; of an LMDB everything, for its keys have none."""
    everything = part.archive.lower().endswith(".mdb")
    for place in list_archive(folder / part.archive):
        if everything or (place.name.lower().endswith(_IMAGES) and not _HIDDEN.search(place.name)):
            part.add_member(place)
