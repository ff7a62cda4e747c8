"""What `verify` finds: everything in one shard, and of a folder of millions of samples sums, counts and examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_engine.qa.dirty_labels import Limits, outlying
from depth_anything_train.data.exclusions import BadKey
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import Label
from depth_anything_train.data.shards import Shard

REMEMBERED = 20
"""How many samples are remembered for each reason."""


@dataclass
class Statistics:
    """Sums over samples.

    Attributes:
        samples: read and agreeing with their checksum.
        labels: decoded.
        all_invalid: labels without a valid pixel. In pseudo labels they stand for images that could not be used.
        constant: labels with one single value.
        valid_share: sum over labels of the share of valid pixels.
        lowest, highest: disparity over all valid pixels; 1 / m, or in the unit of the source.
        compared: labels that were compared with images.
        agreements: sum of their agreement; see `data_engine.qa.agreement`.
    """

    samples: int = 0
    labels: int = 0
    all_invalid: int = 0
    constant: int = 0
    valid_share: float = 0.0
    lowest: float = float("inf")
    highest: float = float("-inf")
    compared: int = 0
    agreements: float = 0.0

    def add(self, other: Statistics) -> None:
        """Add those of other samples."""
        lowest, highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        for one in fields(Statistics):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.lowest, self.highest = lowest, highest

    def add_label(self, label: Label) -> None:
        """Count one decoded label."""
        disparity, valid = label
        self.labels += 1
        self.valid_share += float(valid.mean())
        if not valid.any():
            self.all_invalid += 1
            return
        lowest, highest = float(disparity[valid].min()), float(disparity[valid].max())
        self.constant += lowest == highest
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)

    @property
    def agreement(self) -> float:
        """Mean agreement of labels with their images."""
        return self.agreements / max(self.compared, 1)


class Scales(NamedTuple):
    """Typical disparities of the labels of one data set in one shard, (n,), and the labels' numbers, (n,)."""

    shard: str
    digest: str
    numbers: NDArray[np.uint32]
    disparities: NDArray[np.float32]


@dataclass
class ShardFindings:
    """What was found in one shard.

    Attributes:
        problems: what is wrong with the whole shard, one sentence each.
        bad: samples that are damaged or dirty, and those with a score that are suspected.
        statistics: sums over its samples.
        scales: data set -> scales of its real labels.
    """

    problems: list[str] = field(default_factory=list)
    bad: list[BadKey] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    scales: dict[str, Scales] = field(default_factory=dict)


@dataclass
class Tally:
    """How often something was found, and `REMEMBERED` samples: the first ones, or of suspected ones the worst."""

    count: int = 0
    examples: list[BadKey] = field(default_factory=list)

    def add(self, bad: BadKey) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < REMEMBERED or bad.score is not None:
            self.examples = sorted([*self.examples, bad], key=lambda one: one.score or 0)[:REMEMBERED]


@dataclass
class Findings(Statistics):
    """What was found in all shards of a folder.

    Attributes:
        problems: what is wrong with whole shards, one sentence each.
        bad: samples that are damaged or dirty, by reason.
        suspected: samples that may be, by reason.
    """

    problems: list[str] = field(default_factory=list)
    bad: dict[str, Tally] = field(default_factory=dict)
    suspected: dict[str, Tally] = field(default_factory=dict)

    def add_bad(self, bad: BadKey) -> None:
        """Count a bad or suspected sample."""
        (self.bad if bad.score is None else self.suspected).setdefault(bad.reason, Tally()).add(bad)

    @property
    def num_wrong(self) -> int:
        """How much is wrong; 0 if all is well."""
        return len(self.problems) + sum(tally.count for tally in self.bad.values())

    @property
    def num_suspected(self) -> int:
        """How many samples may be wrong."""
        return sum(tally.count for tally in self.suspected.values())

    @property
    def wrong(self) -> list[str]:
        """What is wrong, one sentence each: all problems of shards, and samples as far as they are remembered."""
        return self.problems + [_sentence(one) for one in in_order(self.bad)]

    @property
    def doubts(self) -> list[str]:
        """What may be wrong, the worst first, one sentence each, as far as they are remembered."""
        return [_sentence(one) for one in sorted(in_order(self.suspected), key=lambda one: one.score or 0)]


def in_order(tallies: dict[str, Tally]) -> list[BadKey]:
    """The examples for all reasons, as they lie in the shards."""
    examples = [one for tally in tallies.values() for one in tally.examples]
    return sorted(examples, key=lambda one: (one.shard, one.number))


def _sentence(bad: BadKey) -> str:
    return f"{bad.shard}, sample {bad.number}: {bad.reason}: {bad.message}"


def odd_scales(folder: AnyPath, shards: Iterable[Scales], limits: Limits) -> Iterator[BadKey]:
    """Labels of one data set whose scale is far off that of all; what is odd is read again, for its key.

    Args:
        folder: the folder of the shards.
        shards: the scales in each of them.
        limits: what counts as odd.
    """
    shards = list(shards)
    factors = outlying(np.concatenate([one.disparities for one in shards], dtype=np.float64), limits)
    ends = np.cumsum([len(one.numbers) for one in shards])
    for place in np.flatnonzero(factors).tolist():
        shard = int(np.searchsorted(ends, place, side="right"))
        scales = shards[shard]
        number = int(scales.numbers[place - ends[shard]])
        key = Shard(folder / scales.shard).read(number).key
        message = f"The median is a factor of {factors[place]:.4g} off the middle of {ends[-1]} labels of its data set."
        yield BadKey(scales.shard, number, key, "outlying_scale", message, scales.digest)
