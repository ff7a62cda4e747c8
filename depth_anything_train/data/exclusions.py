"""Which samples of a folder are left out of training, and which are left: by number, without a table of all samples.

Two things leave a sample out. `bad_keys.jsonl` in the folder, which `verify bad_keys=true` writes, names samples that
are damaged or dirty, one JSON object a line. The manifest `NAME.json` beside a pseudo-label shard flags samples, by
number, for reasons that a run may choose to `skip`. Lines of bad_keys.jsonl with a score are suspicions: they too are
left out only if a run skips their reason.
"""

from __future__ import annotations

import io
import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import xxhash

from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import PSEUDO_LABELS
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import atomic_writer, read_json
from depth_anything_train.parallel import in_parallel
from depth_anything_train.runtime import UserError, fingerprint

BAD_KEYS_FILE = "bad_keys.jsonl"


@dataclass(frozen=True)
class BadKey:
    """One sample that is damaged, dirty or suspected: a line of bad_keys.jsonl.

    Attributes:
        shard: name of the tar.
        number: number of the sample in the shard, from 0.
        key: key of the sample; empty where it cannot be read.
        reason: a short slug, such as `constant_label`.
        message: the same for a person.
        digest: digest of the shard, so that a list is never applied to other shards than those it was made from.
        score: None where there is no doubt; else the evidence of a suspicion, and small is worse.
    """

    shard: str
    number: int
    key: str
    reason: str
    message: str = ""
    digest: str = ""
    score: float | None = None


@contextmanager
def writing_bad_keys(folder: Path) -> Iterator[Callable[[BadKey], None]]:
    """Replace the list of a folder, line by line, when this is left; an empty one says that the folder was checked."""
    with atomic_writer(folder / BAD_KEYS_FILE) as file:

        def write(bad: BadKey) -> None:
            line = json.dumps({k: v for k, v in asdict(bad).items() if v is not None}, sort_keys=True)
            file.write(f"{line}\n".encode())

        yield write


def write_bad_keys(folder: Path, bad: Iterable[BadKey]) -> None:
    """Replace the list of a folder."""
    with writing_bad_keys(folder) as write:
        for one in bad:
            write(one)


def read_bad_keys(folder: AnyPath) -> Iterator[BadKey]:
    """The list of a folder, line by line; nothing where it has none. Only shard, number and reason must be there.

    Raises:
        UserError: a line that cannot be read.
    """
    path = folder / BAD_KEYS_FILE
    if not path.exists():
        return
    with open(path, "rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes()) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                one = BadKey(**{"key": "", **json.loads(line.decode())})
                if [*map(type, (one.shard, one.number, one.reason, one.digest))] != [str, int, str, str]:
                    raise TypeError  # people write lines by hand
                if not isinstance(one.score, float | int | None):
                    raise TypeError
            except (ValueError, TypeError, RecursionError):
                wanted = 'an object such as {"shard": "00000.tar", "number": 3, "reason": "constant_label"}'
                what = f"Line {number} of {path} cannot be read: expected {wanted}"
                raise UserError(f"{what}; fix or delete it.") from None
            yield one


class Selection:
    """The samples of a folder that are left, as a sequence: number k of it is sample `self[k]` of the folder.

    Args:
        total: samples in the folder.
        left_out: number of each that is left out, and why, in any order; of several reasons the first counts.
    """

    def __init__(self, total: int, left_out: Iterable[tuple[int, str]]) -> None:
        numbers, codes, names = array("q"), array("i"), dict[str, int]()  # of 62 million, 3 % are two million
        for number, reason in left_out:
            numbers.append(number)
            codes.append(names.setdefault(reason, len(names)))
        self.total = total
        self.left_out, first = np.unique(np.array(numbers), return_index=True)
        counts = np.bincount(np.array(codes)[first], minlength=len(names)).tolist()
        self.reasons = +Counter(dict(zip(names, counts, strict=True)))  # without those that never were the first
        self.names = frozenset(names)  # with them
        # How many are left before each that is not. This sorted array alone answers `self[k]`, in log(n).
        self._left_before = self.left_out - np.arange(len(self.left_out))

    def __len__(self) -> int:
        return self.total - len(self.left_out)

    def __getitem__(self, k: int) -> int:
        if not 0 <= k < len(self):
            raise IndexError(f"sample {k} of {len(self)} that are left")
        return k + int(np.searchsorted(self._left_before, k, side="right"))

    def counts(self, starts: Sequence[int]) -> list[int]:
        """How many are left in each part of the folder, for instance in each shard.

        Args:
            starts: where each part starts, and where the last one ends.
        """
        return np.diff(np.array(starts) - np.searchsorted(self.left_out, starts)).tolist()

    @property
    def digest(self) -> str:
        """Equal for equal selections: together with the seed it decides the order of a run."""
        return fingerprint([self.total, xxhash.xxh3_64_hexdigest(self.left_out.tobytes())])


def select(labels: ShardFolder, images: ShardFolder, skip: Collection[str] = ()) -> Selection:
    """What is left of a folder after its bad keys and, of its flags and suspicions, those of the reasons `skip`.

    Args:
        labels: shards of any kind.
        images: for pseudo labels their image shards, whose bad keys count too: the numbers agree. Else `labels` again.
        skip: reasons of flags and suspicions that leave a sample out.

    Raises:
        UserError: a list that cannot be read or belongs to other shards, or nothing is left.
    """
    lists = [_listed(labels, skip)]
    if labels.info["kind"] == PSEUDO_LABELS:
        lists += [_listed(images, skip), _flagged(labels, skip)]
    selection = Selection(len(labels), chain(*lists))
    if selection.reasons and not len(selection):
        why = ", ".join(f"{count} x {reason}" for reason, count in selection.reasons.most_common())
        raise UserError(f"All {len(labels)} samples of {labels.path} are left out ({why}); prepare or label it again.")
    return selection


def _listed(folder: ShardFolder, skip: Collection[str]) -> Iterator[tuple[int, str]]:
    """Number in the folder and reason, by the folder's list."""
    shards = {path.name: (number, folder.digest(number)) for number, path in enumerate(folder.shards)}
    for bad in read_bad_keys(folder.path):
        if bad.score is not None and bad.reason not in skip:
            continue
        shard, digest = shards.get(bad.shard, (-1, ""))
        if shard < 0 or bad.digest not in ("", digest):
            raise UserError(
                f"{folder.path / BAD_KEYS_FILE} was made from another {bad.shard} than there is now; "
                "run `depth-anything verify bad_keys=true` again."
            )
        yield _index(folder, shard, bad.number, BAD_KEYS_FILE), bad.reason


def _flagged(folder: ShardFolder, skip: Collection[str]) -> Iterator[tuple[int, str]]:
    """Number in the folder and reason, by the flags in the manifests."""
    marks = [path.with_suffix(".json") for path in folder.shards] if skip else []
    for shard, flags in enumerate(in_parallel(_read_flags, marks)):
        name = marks[shard].name
        for reason in sorted(set(skip) & flags.keys()):
            for number in flags[reason]:
                yield _index(folder, shard, number, name), reason


def _read_flags(mark: AnyPath) -> dict[str, list[int]]:
    flags: dict[str, list[int]] = read_json(mark, keys={"flags": dict})["flags"]
    if wrong := [reason for reason, numbers in flags.items() if not isinstance(numbers, list)]:
        raise UserError(f"{mark} is damaged: expected a list of numbers as flag {wrong[0]}; delete it and label again.")
    return flags


def _index(folder: ShardFolder, shard: int, number: int, file: str) -> int:
    count = folder.starts[shard + 1] - folder.starts[shard]
    if not isinstance(number, int) or not 0 <= number < count:
        name = folder.shards[shard].name
        raise UserError(f"{folder.path / file} names sample {number} of {name}, which holds {count}; make it again.")
    return folder.starts[shard] + number
