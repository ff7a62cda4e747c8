"""What a raw data set has to offer so that `prepare` can turn it into shards: one class, one file each."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError, keyed_seed, require_count
from depth_anything_train.walking import LinkedFolders

JPEG_QUALITY = 95
"""Of pictures that are drawn or come from a video; the bytes of all others stay as they are."""

_ODD, _DIGITS = re.compile(r"[^\w-]"), re.compile("[0-9]+")


@dataclass(frozen=True)
class RawSample:
    """One sample ready to be written.

    Attributes:
        key: unique in the data set, without dots and slashes.
        members: encoded members by extension; see `depth_anything_train.data.schema`.
        notes: anything worth counting that did not stop the sample, such as {"negative_pixels": 17}.
    """

    key: str
    members: Mapping[str, bytes]
    notes: Mapping[str, int] = field(default_factory=dict)


class Ingest(Protocol):
    """A raw data set. Instances are pickled to the worker processes, so they hold paths and numbers only.

    Two attributes are optional: `licence`, that of all samples, as images alone have no json to say it; and `schema`,
    that of dataset.json where it is another than `SCHEMA`.
    """

    @property
    def kind(self) -> str:
        """What its shards are: `labelled`, `images` or `segmented`."""

    @property
    def source(self) -> str:
        """Name of the data set, written into every sample and into dataset.json."""

    def items(self) -> Sequence[Any]:
        """Everything there is, in an order that is the same on every machine. Small things: paths, numbers, rows.

        `str` of an item names it to a person, `repr` tells whether it is the same as in an earlier run.

        Raises:
            UserError: the folder is missing or holds nothing of the kind.
        """

    def load(self, item: Any) -> RawSample:
        """Read and check one item. Pure: the same item gives the same bytes.

        Raises:
            BadSample: it cannot be used; it is skipped and counted under the reason.
        """

    def info(self) -> dict[str, Any]:
        """Facts for dataset.json, such as `classes`, and the `settings` that change the output.

        Plain JSON without a path of this machine. `prepare` refuses to continue a folder whose info differs.
        """


def make_key(name: str) -> str:
    """A key from a relative path without its extension: everything but letters, digits, `_` and `-` becomes `_`."""
    return _ODD.sub("_", name)


def natural_order(name: str) -> str:
    """Sort key under which photo2 comes before photo10; one text, because lists of ten million names are sorted."""
    return _DIGITS.sub(_in_order, name)


def _in_order(digits: re.Match[str]) -> str:
    """Digits as text in the order of their numbers: before all letters, shorter before longer, then as they stand."""
    number = digits[0].lstrip("0")
    return f"\0{chr(len(number))}{number}{digits[0]}\0"


def unique_keys(keys: Sequence[str]) -> list[bool]:
    """True for the first item of each key, False for those that repeat one."""
    seen: set[str] = set()
    return [not (key in seen or seen.add(key)) for key in keys]  # type: ignore[func-returns-value]


def choose(items: Sequence[Any], count: int | None, seed: int) -> Sequence[Any]:
    """At most `count` of the items, drawn by the seed, in their old order; None takes all.

    Raises:
        UserError: `count` is below 1.
    """
    if count is not None:
        require_count("count", count)
    if count is None or count >= len(items):
        return items
    chosen = np.random.default_rng(keyed_seed(seed, "choose")).permutation(len(items))[:count]
    return [items[position] for position in sorted(chosen)]


def in_part(key: str, part: str, test_share: float, seed: int) -> bool:
    """Whether a key belongs to `part` (`train`, `test` or `all`). The key alone decides, not what else is there."""
    is_test = keyed_seed(seed, "part", key) < test_share * 2**64
    return part == "all" or (part == "test") == is_test


def list_files(root: Path, extensions: Sequence[str]) -> list[str]:
    """Paths below `root`, relative with `/`, of visible files with one of the extensions, in natural order."""
    return list(walk_files(root, extensions))


def walk_files(root: Path, extensions: Sequence[str] | None = None) -> Iterator[str]:
    """As `list_files`, but one path after another: only the names of one folder are held. Without extensions all files.

    Links to folders elsewhere are followed; see `walking.LinkedFolders`.

    Raises:
        UserError: a folder below `root` cannot be read.
    """
    endings = ("",) if extensions is None else tuple(f".{extension}" for extension in extensions)
    return _walk(str(root), "", endings, LinkedFolders(root))


def _walk(root: str, below: str, endings: tuple[str, ...], links: LinkedFolders) -> Iterator[str]:
    folder = os.path.join(root, below)
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    names += [entry.name] * entry.name.lower().endswith(endings)
                else:
                    names.append(entry.name + "/")  # so that the order is that of whole paths
    except OSError as error:
        raise UserError(f"Expected to read the folder {folder}, but cannot: {error.strerror}.") from None
    for name in sorted(names, key=natural_order):
        if not name.endswith("/"):
            yield below + name
        elif not os.path.islink(path := os.path.join(folder, name[:-1])) or links.follow(path):
            yield from _walk(root, below + name, endings, links)


def stem(path: str) -> str:
    """A relative path without its extension: `a/b.v2.jpg` gives `a/b.v2`."""
    return path.rpartition(".")[0] or path


def read_file(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        BadSample: `unreadable_file`.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSample("unreadable_file", f"{path.name} cannot be read: {error.strerror}.") from None


def layout_of(raw_set: type) -> str:
    """The official folder layout of a raw data set: the second paragraph of its class's docstring.

    Where Python runs without docstrings (`-OO`), it names the page that tells it.
    """
    paragraphs = (inspect.getdoc(raw_set) or "").split("\n\n")
    return paragraphs[1] if len(paragraphs) > 1 else "that of its owners, see docs/datasets.md"


def encode_jpeg(picture: NDArray[np.uint8]) -> bytes:
    """JPEG of RGB (H, W, 3)."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
