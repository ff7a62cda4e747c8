"""Training images that are also test images: every hash of one side against every hash of the other.

Pairs that are near by their hashes (`phash`) are compared again pixel by pixel. Hashes are kept by the digest of
their shard: a run that was stopped continues, and another test set costs no second reading of the training images.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.leaks import phash
from data_engine.processes import ordered_map
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.files import atomic_writer, read_json, require_writable, write_json
from depth_anything_train.runtime import ProgressBar, UserError, fingerprint


@dataclass(frozen=True)
class Leak:
    """A training image that is a copy of a test image.

    Attributes:
        train, train_shard, train_number, train_key: where the training image lies.
        test, test_shard, test_number, test_key: where the test image lies.
        distance: bits of 64 in which the nearest of their hashes differ.
        mirrored: one is the mirror image of the other.
        correlation: correlation of their aligned detail; 1 is equal.
    """

    train: str
    train_shard: str
    train_number: int
    train_key: str
    test: str
    test_shard: str
    test_number: int
    test_key: str
    distance: int
    mirrored: bool
    correlation: float


@dataclass(frozen=True)
class LeakReport:
    """What was compared, and the copies found, the most alike first."""

    train_images: int
    test_images: int
    skipped: dict[str, int]
    near: int
    leaks: list[Leak]


@dataclass(frozen=True)
class Limits:
    """When two images count as copies: how many bits may differ, and the smallest correlation."""

    max_distance: int = 10
    min_correlation: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.max_distance <= 20:
            raise UserError(
                f"Expected max_distance from 0 to 20, but got {self.max_distance}; different images have 32."
            )
        if not 0 < self.min_correlation <= 1:
            raise UserError(f"Expected min_correlation above 0 and up to 1, but got {self.min_correlation}.")


def find_leaks(
    train: Sequence[str], test: Sequence[str], out: Path, *, limits: Limits | None = None, workers: int | None = None
) -> LeakReport:
    """Compare all training images with all test images.

    Args:
        train: folders of shards; of pseudo labels the images are taken.
        test: the same.
        out: folder for hashes and results of each shard, which later calls reuse.
        limits: from where on two images are called copies.
        workers: processes; None is one a core, 0 works in this process.

    Raises:
        UserError: a folder is missing, empty or unfinished, or `out` cannot be written to.
    """
    if not train or not test:
        raise UserError("Expected at least one folder each for train and test.")
    limits = limits or Limits()
    require_writable(out)
    train_shards, test_shards = _shards(train), _shards(test)
    hashed = list(_in_order("test images", hash_shard, [(*shard, out, True) for shard in test_shards], workers))
    files = tuple(path for path, _ in hashed)
    tasks = [(*shard, files, limits, out) for shard in train_shards]
    found = list(_in_order("training images", search_shard, tasks, workers))
    leaks = [
        _leak(train_shards[number], test_shards[row["test"]], row)
        for number, result in enumerate(found)
        for row in result["leaks"]
    ]
    skipped = sum((Counter(result["skipped"]) for result in found), Counter(_reasons(files)))
    return LeakReport(
        train_images=sum(result["count"] for result in found),
        test_images=sum(count for _, count in hashed),
        skipped=dict(skipped),
        near=sum(result["near"] for result in found),
        leaks=sorted(leaks, key=lambda leak: (-leak.correlation, leak.train, leak.train_shard, leak.train_number)),
    )


def _shards(folders: Sequence[str]) -> list[tuple[str, int]]:
    """(folder, number of the shard) of all image shards of the folders."""
    return [(name, number) for name in folders for number in range(len(open_images(name).shards))]


@lru_cache(maxsize=32)
def open_images(name: str) -> ShardFolder:
    """The image shards of a folder; opened once a process."""
    return ShardFolder(name).open_images()


def _in_order(what: str, function: Any, tasks: list[tuple[Any, ...]], workers: int | None) -> Iterable[Any]:
    with ProgressBar(what, len(tasks)) as bar:
        for result in ordered_map(function, tasks, workers):
            yield result
            bar.advance()


# -- Hashing: one file a shard, named by its content. ------------------------------------------------------------------


def hash_shard(folder: str, number: int, out: Path, of_tests: bool) -> tuple[Path, int]:
    """Hash the images of one shard, unless that was done before.

    Args:
        folder: the folder of the shard.
        number: number of the shard in it.
        out: where hashes are kept.
        of_tests: hash mirror images too, and keep the squares that were hashed.

    Returns:
        The file: `numbers` (N,), `hashes` (N, W) and `skipped`, a reason for each image that has no hash; for tests
        `mirrored` (N, W) and `squares` (N, 128, 128). And the number of images in the shard.
    """
    shard = open_images(folder).shard(number)
    path = out / ("tests" if of_tests else "hashes") / f"{shard.digest}-{phash.VERSION}.npz"
    if not zipfile.is_zipfile(path):  # not there, or cut off
        numbers, squares, skipped = _read_squares(shard)
        arrays: dict[str, Any] = {
            "numbers": np.array(numbers, np.uint32),
            "hashes": _hashes(squares),
            "skipped": np.array(skipped, str),
        }
        if of_tests:
            arrays["mirrored"] = _hashes([square[:, ::-1] for square in squares])
            arrays["squares"] = np.array(squares, np.uint8).reshape(-1, phash.SIDE, phash.SIDE)
        with atomic_writer(path) as file:
            np.savez(file, **arrays)
    return path, shard.count


def _read_squares(shard: Shard) -> tuple[list[int], list[NDArray[np.uint8]], list[str]]:
    numbers, squares, skipped = [], [], []
    for number in range(shard.count):
        try:
            squares.append(phash.read_square(shard.read(number).image))
            numbers.append(number)
        except BadSample as error:
            skipped.append(error.reason)
    return numbers, squares, skipped


def _hashes(squares: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    return np.array([phash.window_hashes(square) for square in squares], np.uint64).reshape(-1, len(phash.WINDOWS))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:  # refuses pickles
        return dict(file)


def _reasons(files: Iterable[Path]) -> Counter[str]:
    """Why images of these hash files were skipped."""
    return Counter(reason for path in files for reason in _read(path)["skipped"].tolist())


# -- Searching: one result a shard. ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tests:
    """All test images: number of their shard and in it, hashes (M, W), squares (M, 128, 128)."""

    shards: NDArray[np.int64]
    numbers: NDArray[np.uint32]
    hashes: dict[bool, NDArray[np.uint64]]  # by whether they are mirrored
    squares: NDArray[np.uint8]


@lru_cache(maxsize=1)
def _load_tests(files: tuple[Path, ...]) -> _Tests:
    loaded = [_read(path) for path in files]
    numbers, hashes, mirrored, squares = (
        np.concatenate([one[name] for one in loaded]) for name in ("numbers", "hashes", "mirrored", "squares")
    )
    shards = np.repeat(np.arange(len(loaded)), [len(one["numbers"]) for one in loaded])
    return _Tests(shards, numbers, {False: hashes, True: mirrored}, squares)


def search_shard(folder: str, number: int, tests: tuple[Path, ...], limits: Limits, out: Path) -> dict[str, Any]:
    """Compare one training shard with all tests, unless that was done before.

    Returns:
        `count` of images, `skipped` by reason, `near` pairs by hash, and `leaks`: `number` of the training image,
        `test` shard, `test_number`, `distance`, `mirrored`, `correlation`.
    """
    shard = open_images(folder).shard(number)
    identity = fingerprint([[path.stem for path in tests], asdict(limits)])
    path = out / "found" / f"{shard.digest}.json"
    if path.exists() and (known := read_json(path, keys=("identity",)))["identity"] == identity:
        return known
    file, count = hash_shard(folder, number, out, False)
    content = _read(file)
    near, leaks = _compare(shard, content["numbers"], content["hashes"], _load_tests(tests), limits)
    result = {"identity": identity, "count": count, "skipped": _reasons([file]), "near": near, "leaks": leaks}
    write_json(path, result)
    return result


def _compare(
    shard: Shard, numbers: NDArray[np.uint32], hashes: NDArray[np.uint64], tests: _Tests, limits: Limits
) -> tuple[int, list[dict[str, Any]]]:
    """How many pairs are near by their hashes, and those that are copies by their detail too."""
    near = 0
    best: dict[tuple[int, int], dict[str, Any]] = {}
    square = lru_cache(maxsize=1)(lambda n: phash.read_square(shard.read(n).image))
    for mirrored, test_hashes in tests.hashes.items():
        for pair in phash.near_pairs(hashes, test_hashes, limits.max_distance):
            near += 1
            other = tests.squares[pair.b]
            other = np.ascontiguousarray(other[:, ::-1]) if mirrored else other
            correlation = phash.correlation(square(int(numbers[pair.a])), other)
            known = best.get((pair.a, pair.b))
            if correlation >= limits.min_correlation and (known is None or correlation > known["correlation"]):
                where = {"number": int(numbers[pair.a]), "test": int(tests.shards[pair.b])}
                found = {"distance": pair.distance, "mirrored": mirrored, "correlation": round(correlation, 4)}
                best[pair.a, pair.b] = {**where, "test_number": int(tests.numbers[pair.b]), **found}
    return near, list(best.values())


def _leak(train: tuple[str, int], test: tuple[str, int], row: dict[str, Any]) -> Leak:
    train_shard, test_shard = open_images(train[0]).shard(train[1]), open_images(test[0]).shard(test[1])
    return Leak(
        train=train[0],
        train_shard=train_shard.path.name,
        train_number=row["number"],
        train_key=train_shard.read(row["number"]).key,
        test=test[0],
        test_shard=test_shard.path.name,
        test_number=row["test_number"],
        test_key=test_shard.read(row["test_number"]).key,
        distance=row["distance"],
        mirrored=row["mirrored"],
        correlation=row["correlation"],
    )
