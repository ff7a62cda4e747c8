"""What `verify` does with one shard, and what it finds there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_engine.qa.agreement import Edges, agreement, edges
from data_engine.qa.dirty_labels import Limits, examine, outlying, typical_disparity
from depth_anything_train.data.exclusions import BadKey
from depth_anything_train.data.folders import read_info
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.index_files import make_index
from depth_anything_train.data.labels import Label, check_shape, decode_classes, decode_label
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import (
    DATASET_FILE,
    IMAGES,
    LABELLED,
    PSEUDO_LABELS,
    SEGMENTED,
    BadSample,
    Record,
)
from depth_anything_train.data.shards import Shard
from depth_anything_train.runtime import UserError, fingerprint, read_json

COMPARED_TOGETHER = 500
"""Samples of a shard whose images and labels are compared with each other: bounds the memory for large shards."""


class Scale(NamedTuple):
    """The typical disparity of a label, to be compared with those of the same data set (`group`)."""

    group: str
    disparity: float
    sample: BadKey


@dataclass
class Findings:
    """What was found in one shard, or in all of them.

    Attributes:
        problems: what is wrong with whole shards, one sentence each.
        bad: samples that are damaged or dirty, and those with a score that are suspected.
        samples: read and agreeing with their checksum.
        labels: decoded.
        all_invalid: labels without a valid pixel. In pseudo labels they stand for images that could not be used.
        constant: labels with one single value.
        valid_share: sum over labels of the share of valid pixels.
        lowest, highest: disparity over all valid pixels; 1 / m, or in the unit of the source.
        compared: labels that were compared with images.
        agreements: sum of their agreement; see `data_engine.qa.agreement`.
        scales: of real labels.
    """

    problems: list[str] = field(default_factory=list)
    bad: list[BadKey] = field(default_factory=list)
    samples: int = 0
    labels: int = 0
    all_invalid: int = 0
    constant: int = 0
    valid_share: float = 0.0
    lowest: float = float("inf")
    highest: float = float("-inf")
    compared: int = 0
    agreements: float = 0.0
    scales: list[Scale] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Add another shard's findings."""
        sums = ("samples", "labels", "all_invalid", "constant", "valid_share", "compared", "agreements")
        for name in sums:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("problems", "bad", "scales"):
            getattr(self, name).extend(getattr(other, name))
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

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
    def wrong(self) -> list[str]:
        """Everything that is wrong, one sentence each; empty if all is well."""
        return self.problems + [_sentence(bad) for bad in self.bad if bad.score is None]

    @property
    def suspected(self) -> list[str]:
        """What may be wrong, the worst first."""
        doubts = [(bad.score, _sentence(bad)) for bad in self.bad if bad.score is not None]
        return [sentence for _, sentence in sorted(doubts)]

    @property
    def agreement(self) -> float:
        """Mean agreement of labels with their images."""
        return self.agreements / max(self.compared, 1)


def _sentence(bad: BadKey) -> str:
    return f"{bad.shard}, sample {bad.number}: {bad.reason}: {bad.message}"


def check_shard(tar: AnyPath, kind: str, images: AnyPath | None, deep: bool, limits: Limits) -> Findings:
    """Check one shard; whatever is wrong with it is in the findings, never raised.

    Args:
        tar: the shard.
        kind: of the folder: `labelled`, `images`, `pseudo_labels` or `segmented`.
        images: folder of the image shards, for pseudo labels.
        deep: decode images and labels.
        limits: when a label counts as dirty.
    """
    findings = Findings()
    try:
        shard = _open(tar, others=kind == IMAGES)
        shard.check_index()
        partner = _open(images / tar.name, others=True) if images and (images / tar.name).exists() else None
        if kind == PSEUDO_LABELS:
            findings.problems += _check_manifest(shard, partner)
    except UserError as error:
        findings.problems.append(f"{tar.name}: {error}")
        return findings
    _ShardCheck(shard, partner, kind, deep, limits, findings).run()
    return findings


def _open(tar: AnyPath, *, others: bool) -> Shard:
    """Open a shard. Tars of others may have no index yet; one of ours without was never finished."""
    if others and isinstance(tar, Path):
        make_index(tar)
    return Shard(tar)


def _check_manifest(shard: Shard, images: Shard | None) -> Iterator[str]:
    """A pseudo-label shard counts as done by its manifest, which names what it was made from."""
    name = shard.path.name
    mark = shard.path.with_suffix(".json")
    if not mark.exists():
        yield f"{name}: expected the manifest {mark.name}, which does not exist; run `label` again."
        return
    manifest = read_json(mark, keys={**dict.fromkeys(("input", "output", "teacher", "config"), str), "count": int})
    info = read_info(shard.path.parent)
    folder = {"teacher": info.get("teacher"), "config": fingerprint(info.get("settings"))}
    if other := sorted(name for name in folder if manifest[name] != folder[name]):
        yield f"{name}: made with another {' and '.join(other)} than {DATASET_FILE} says; delete it and label again."
    if manifest["count"] != shard.count or manifest["output"] != shard.digest:
        yield f"{name}: the labels are not those of the manifest; run `label` again."
    if images is not None and images.count != shard.count:
        yield f"{name}: {shard.count} labels for {images.count} images; delete {mark.name} and run `label` again."
    elif images is not None and manifest["input"] != images.digest:
        yield f"{name}: the images changed after they were labelled; label into another folder."


@dataclass
class _ShardCheck:
    """Goes through the samples of a shard that could be opened."""

    shard: Shard
    images: Shard | None
    kind: str
    deep: bool
    limits: Limits
    findings: Findings
    pairs: list[tuple[BadKey, Edges]] = field(default_factory=list)

    def run(self) -> None:
        keys: set[str] = set()
        for number in range(self.shard.count):
            key = ""
            try:
                record = self.shard.read(number)
                key = record.key
                self.findings.samples += 1
                self._check(number, record, keys)
            except BadSample as error:
                self.findings.bad.append(self._bad(number, key, error.reason, str(error)))
            if len(self.pairs) == COMPARED_TOGETHER:
                self._compare()
        self._compare()

    def _bad(self, number: int, key: str, reason: str, message: str, score: float | None = None) -> BadKey:
        return BadKey(self.shard.path.name, number, key, reason, message, self.shard.digest, score)

    def _check(self, number: int, record: Record, keys: set[str]) -> None:
        if record.key in keys:
            raise BadSample("duplicate_key", f"Key {record.key!r} comes twice.")
        keys.add(record.key)
        # Without decoding, the manifest says whose labels these are: its `input` is the hash of the images.
        if self.deep and self.images is not None and number < self.images.count:
            image = self.images.read(number)
            if record.key != image.key:
                raise BadSample("wrong_key", f"Expected the label of {image.key!r}, but came that of {record.key!r}.")
        if not self.deep:
            return
        if self.kind == PSEUDO_LABELS:
            self.findings.add_label(decode_label(*record.label(), record.meta))
        elif self.kind == LABELLED:
            self._check_pair(number, record)
        elif self.kind == SEGMENTED:
            decode_classes(record, decode_image(record.image).shape)
        else:
            decode_image(record.image)

    def _check_pair(self, number: int, record: Record) -> None:
        """An image with a real label."""
        image, (extension, data), meta = decode_image(record.image), record.label(), record.meta
        label = decode_label(extension, data, meta)
        disparity, valid = label
        self.findings.add_label(label)
        if not valid.any():
            raise BadSample("no_valid_pixel", f"The label of {record.key} has no valid pixel.")
        check_shape(image.shape, disparity.shape)
        for reason, message in examine(extension, data, meta, label, self.limits):
            self.findings.bad.append(self._bad(number, record.key, reason, message))
        if (typical := typical_disparity(label)) is not None:
            group = " ".join(str(meta.get(fact)) for fact in ("source", "quantity", "unit"))
            sample = self._bad(number, record.key, "outlying_scale", "")
            self.findings.scales.append(Scale(group, typical, sample))
        if self.limits.mismatch:
            sample = self._bad(number, record.key, "mismatch", "")
            self.pairs.append((sample, edges(image, disparity, valid)))

    def _compare(self) -> None:
        """Compare each label with its own image and with others, and suspect those that fit others as well."""
        for (sample, _), score in zip(self.pairs, agreement([pair for _, pair in self.pairs]), strict=True):
            if score is None:
                continue
            self.findings.compared += 1
            self.findings.agreements += score
            if score <= self.limits.mismatch:
                message = f"The label fits its own image better than {score:.0%} of the others."
                self.findings.bad.append(self._bad(sample.number, sample.key, "mismatch", message, score))
        self.pairs.clear()


def odd_scales(scales: list[Scale], limits: Limits) -> Iterator[BadKey]:
    """Labels whose scale is far off that of their data set."""
    groups: dict[str, list[Scale]] = {}
    for scale in scales:
        groups.setdefault(scale.group, []).append(scale)
    for group in groups.values():
        factors = outlying(np.array([scale.disparity for scale in group]), limits)
        for number in np.flatnonzero(factors).tolist():
            sample, factor = group[number].sample, factors[number]
            message = f"The median is a factor of {factor:.4g} off the middle of {len(group)} labels of its data set."
            yield replace(sample, message=message)
