"""What `verify` does with one shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_engine.qa.agreement import Edges, agreement, edges
from data_engine.qa.dirty_labels import Limits, examine, typical_disparity
from data_engine.qa.findings import Scales, ShardFindings, Statistics
from depth_anything_train.data.exclusions import BadKey
from depth_anything_train.data.folders import read_info
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.index_files import make_index
from depth_anything_train.data.labels import check_shape, decode_classes, decode_label
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
from depth_anything_train.files import read_json
from depth_anything_train.runtime import UserError, fingerprint

COMPARED_TOGETHER = 500
"""Samples of a shard whose images and labels are compared with each other: bounds the memory for large shards."""


def check_shard(tar: AnyPath, kind: str, images: AnyPath | None, deep: bool, limits: Limits) -> ShardFindings:
    """Check one shard; whatever is wrong with it is in the findings, never raised.

    Args:
        tar: the shard.
        kind: kind of the folder: `labelled`, `images`, `pseudo_labels` or `segmented`.
        images: folder of the image shards, for pseudo labels.
        deep: decode images and labels.
        limits: when a label counts as dirty.
    """
    findings = ShardFindings()
    try:
        shard = _open(tar, others=kind == IMAGES)
        shard.check_index()
        partner = _open(images / tar.name, others=True) if images and (images / tar.name).exists() else None
        if kind == PSEUDO_LABELS:
            findings.problems += _check_manifest(shard, partner)
    except (UserError, OSError) as error:
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
    findings: ShardFindings
    pairs: list[tuple[BadKey, Edges]] = field(default_factory=list)
    scales: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # data set -> number, typical disparity

    @property
    def statistics(self) -> Statistics:
        return self.findings.statistics

    def run(self) -> None:
        keys: set[str] = set()
        for number in range(self.shard.count):
            key = ""
            try:
                record = self.shard.read(number)
                key = record.key
                self.statistics.samples += 1
                self._check(number, record, keys)
            except BadSample as error:
                self.findings.bad.append(self._bad(number, key, error.reason, str(error)))
            if len(self.pairs) == COMPARED_TOGETHER:
                self._compare()
        self._compare()
        self.findings.bad.sort(key=lambda bad: bad.number)
        for group, pairs in self.scales.items():
            numbers, disparities = zip(*pairs, strict=True)
            arrays = np.array(numbers, np.uint32), np.array(disparities, np.float32)
            self.findings.scales[group] = Scales(self.shard.path.name, self.shard.digest, *arrays)

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
                raise BadSample("wrong_key", f"Expected the label of {image.key!r}, but got that of {record.key!r}.")
        if not self.deep:
            return
        if self.kind == PSEUDO_LABELS:
            self.statistics.add_label(decode_label(*record.label(), record.meta))
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
        self.statistics.add_label(label)
        if not valid.any():
            raise BadSample("no_valid_pixel", f"The label of {record.key} has no valid pixel.")
        check_shape(image.shape, disparity.shape)
        for reason, message in examine(extension, data, meta, label, self.limits):
            self.findings.bad.append(self._bad(number, record.key, reason, message))
        if (typical := typical_disparity(label)) is not None:
            group = " ".join(str(meta.get(fact)) for fact in ("source", "quantity", "unit"))
            self.scales.setdefault(group, []).append((number, typical))
        if self.limits.mismatch:
            sample = self._bad(number, record.key, "mismatch", "")
            self.pairs.append((sample, edges(image, disparity, valid)))

    def _compare(self) -> None:
        """Compare each label with its own image and with others, and suspect those that fit others as well."""
        for (sample, _), score in zip(self.pairs, agreement([pair for _, pair in self.pairs]), strict=True):
            if score is None:
                continue
            self.statistics.compared += 1
            self.statistics.agreements += score
            if score <= self.limits.mismatch:
                message = f"The label fits its own image better than {score:.0%} of the others."
                self.findings.bad.append(self._bad(sample.number, sample.key, "mismatch", message, score))
        self.pairs.clear()
