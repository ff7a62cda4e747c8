"""What a raw data set has to offer so that `prepare` can turn it into shards: one class, one file each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError, keyed_seed


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
    """A raw data set. Instances are pickled to the worker processes, so they hold paths and numbers only."""

    @property
    def kind(self) -> str:
        """`labelled` or `images`."""

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
    return re.sub(r"[^\w-]", "_", name)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which photo2 comes before photo10."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if number % 2 else (0, 0, part) for number, part in enumerate(parts)]


def unique_keys(keys: Sequence[str]) -> list[bool]:
    """True for the first item of each key, False for those that repeat one."""
    seen: set[str] = set()
    return [not (key in seen or seen.add(key)) for key in keys]  # type: ignore[func-returns-value]


def choose(items: Sequence[Any], count: int | None, seed: int) -> Sequence[Any]:
    """At most `count` of the items, drawn by the seed, in their old order; None takes all.

    Raises:
        UserError: `count` is below 1.
    """
    if count is not None and count < 1:
        raise UserError(f"Expected a count of at least 1, but came {count}.")
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
    found: list[str] = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names if _visible(name, extensions)]
    return sorted(found, key=natural_order)


def _visible(name: str, extensions: Sequence[str]) -> bool:
    return not name.startswith(".") and name.lower().endswith(tuple(f".{extension}" for extension in extensions))


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
