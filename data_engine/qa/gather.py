"""What is known about a folder of shards: counts of all of it from its manifests, facts of labels drawn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.processes import ordered_map
from data_engine.qa.facts import LabelFacts, facts
from data_engine.qa.findings import Findings
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.files import read_json
from depth_anything_train.runtime import ProgressBar, keyed_seed

EXAMPLES = 4
"""How many samples are remembered for each reason."""


@dataclass
class Reason:
    """How often a reason was given, and some samples it was given for: (number of the shard, number in it)."""

    count: int = 0
    samples: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Summary:
    """Counts of a whole folder.

    Attributes:
        count: samples in it.
        stored: bytes of its shards.
        dropped: images that could not be used, by reason.
        notes: what `prepare` found worth counting.
        flags: suspicions of `label`, as in the manifests.
        bad: what `verify` found wrong with single samples, and `suspected`, what it found odd.
        finished: when each shard was done, seconds since 1970, and its number of samples; in order of time.
    """

    count: int
    stored: int
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    flags: dict[str, Reason] = field(default_factory=dict)
    bad: dict[str, Reason] = field(default_factory=dict)
    suspected: dict[str, Reason] = field(default_factory=dict)
    finished: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rate(self) -> float | None:
        """Samples a second from the first finished shard to the last, or None where that cannot be said."""
        if len(self.finished) < 2 or self.finished[-1][0] <= self.finished[0][0]:
            return None
        return sum(count for _, count in self.finished[1:]) / (self.finished[-1][0] - self.finished[0][0])


def summarise(folder: ShardFolder, findings: Findings) -> Summary:
    """Count without reading a sample: from indices, manifests, and what `verify` found.

    When a shard was done is the time of its manifest's file: manifests themselves hold no times, so that equal labels
    have equal manifests. A copy that does not keep times loses it.
    """
    summary = Summary(len(folder), sum(_size(path) for path in folder.shards))
    for number, path in enumerate(folder.shards):
        mark = path.with_suffix(".json")
        if not mark.exists():
            continue
        manifest: dict[str, Any] = read_json(mark)
        summary.dropped.update(manifest.get("drops", {}))
        summary.dropped.update({reason: found["count"] for reason, found in manifest.get("dropped", {}).items()})
        summary.notes.update(manifest.get("notes", {}))
        for reason, samples in manifest.get("flags", {}).items():
            _add(summary.flags, reason, number, samples)
        if isinstance(mark, Path):  # stores tell other times
            summary.finished.append((mark.stat().st_mtime, folder.starts[number + 1] - folder.starts[number]))
    shards = {path.name: number for number, path in enumerate(folder.shards)}
    for reasons, tallies in ((summary.bad, findings.bad), (summary.suspected, findings.suspected)):
        for name, tally in tallies.items():
            samples = [(shards[bad.shard], bad.number) for bad in tally.examples[:EXAMPLES]]
            reasons[name] = Reason(tally.count, samples)
    summary.finished.sort()
    return summary


def _size(path: AnyPath) -> int:
    return path.stat().st_size if isinstance(path, Path) else path.size or 0


def _add(reasons: dict[str, Reason], name: str, shard: int, numbers: Sequence[int]) -> None:
    reason = reasons.setdefault(name, Reason())
    reason.count += len(numbers)
    reason.samples += [(shard, number) for number in numbers[: EXAMPLES - len(reason.samples)]]


def draw(folder: ShardFolder, num_shards: int, num_samples: int, seed: int) -> dict[int, list[int]]:
    """Numbers of samples drawn at random, by shard: few shards, so that a folder in a store need not come whole."""
    rng = np.random.default_rng(keyed_seed(seed, "qa"))
    filled = [n for n in range(len(folder.shards)) if folder.starts[n + 1] > folder.starts[n]]
    chosen = sorted(rng.permutation(filled)[:num_shards].tolist())
    places = [(n, k) for n in chosen for k in range(folder.starts[n + 1] - folder.starts[n])]
    drawn: dict[int, list[int]] = {}
    for position in sorted(rng.permutation(len(places))[:num_samples].tolist()):
        drawn.setdefault(places[position][0], []).append(places[position][1])
    return drawn


def examine(path: str, drawn: dict[int, list[int]], workers: int | None) -> list[LabelFacts]:
    """Facts of the drawn samples; labels that cannot be decoded are `verify`'s business and left out."""
    tasks = [(path, shard, numbers) for shard, numbers in drawn.items()]
    found: list[LabelFacts] = []
    with ProgressBar("labels", sum(map(len, drawn.values()))) as bar:
        for (_, _, numbers), one in zip(tasks, ordered_map(_examine_shard, tasks, workers), strict=True):
            found += one
            bar.advance(len(numbers))
    return found


def _examine_shard(path: str, number: int, samples: Sequence[int]) -> list[LabelFacts]:
    shard, partner = open_folder(path)[0].shard(number), image_shard(path, number)
    if partner is None:
        return []
    found = []
    for sample in samples:
        with suppress(BadSample):
            record = shard.read(sample)
            image = record if partner is shard else partner.read(sample)
            found.append(facts(number, sample, shard.entry(sample).extent, record, image))
    return found


def image_shard(path: str, number: int) -> Shard | None:
    """The images of a label shard, found by name: labels may be under way, or images were added. None if gone."""
    labels, images = open_folder(path)
    if images is labels:
        return labels.shard(number)
    place = _numbers(path).get(labels.shards[number].name)
    shard = None if place is None else images.shard(place)
    return shard if shard is not None and shard.count == labels.starts[number + 1] - labels.starts[number] else None


@lru_cache(maxsize=4)
def _numbers(path: str) -> dict[str, int]:
    """Number of each image shard by its name."""
    return {tar.name: number for number, tar in enumerate(open_folder(path)[1].shards)}


@lru_cache(maxsize=4)
def open_folder(path: str) -> tuple[ShardFolder, ShardFolder]:
    """Labels and their images, the same folder unless they are pseudo labels; opened once a process."""
    folder = ShardFolder(path)
    return folder, folder.open_images()
