"""What `verify` keeps of a folder: counts of all that is bad, and few examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import disparity_label, write_folder

from data_engine.qa.dirty_labels import Limits
from data_engine.qa.findings import REMEMBERED, Findings, Scales, Statistics, odd_scales
from depth_anything_train.data.exclusions import BadKey


def test_findings__count_all_and_remember_the_first_that_are_wrong_and_the_worst_that_are_suspected() -> None:
    findings, scores = Findings(), np.random.default_rng(0).permutation(100) / 100
    for number, score in enumerate(scores.tolist()):
        findings.add_bad(BadKey("0.tar", number, "", "constant_label"))
        findings.add_bad(BadKey("0.tar", number, "", "mismatch", f"{score}", score=score))
    assert (findings.num_wrong, findings.num_suspected) == (100, 100)
    assert findings.wrong == [f"0.tar, sample {n}: constant_label: " for n in range(REMEMBERED)]
    assert [float(sentence.split()[-1]) for sentence in findings.doubts] == sorted(scores)[:REMEMBERED]


def test_statistics__of_parts_are_those_of_all() -> None:
    rng = np.random.default_rng(0)
    labels = [(rng.random((3, 4), np.float32), rng.random((3, 4)) < 0.7) for _ in range(9)]
    whole, parts = Statistics(), Findings()
    for part in (labels[:4], labels[4:], []):
        one = Statistics()
        for label in part:
            one.add_label(label)
            whole.add_label(label)
        parts.add(one)
    assert (parts.labels, parts.lowest, parts.highest) == (whole.labels, whole.lowest, whole.highest)
    assert parts.valid_share == pytest.approx(whole.valid_share)


def test_odd_scales__are_named_by_shard_number_and_key(tmp_path: Path) -> None:
    samples = [[(f"s{shard}-{n}", {"disparity.dz16": disparity_label(n)}) for n in range(15)] for shard in range(3)]
    folder = write_folder(tmp_path / "labels", {"kind": "labelled"}, samples)
    medians = np.random.default_rng(0).uniform(0.9, 1.1, (3, 12)).astype(np.float32)
    numbers = np.array([n for n in range(15) if n % 5], np.uint32)  # some have no median
    medians[0, 0], medians[1, -1], medians[2, 4] = 50, 0.01, 1000
    shards = [Scales(f"{n:05d}.tar", f"digest {n}", numbers, medians[n]) for n in range(3)]
    found = [*odd_scales(folder, shards, Limits())]
    assert [(bad.shard, bad.number, bad.key, bad.digest) for bad in found] == [
        ("00000.tar", 1, "s0-1", "digest 0"),
        ("00001.tar", 14, "s1-14", "digest 1"),
        ("00002.tar", 6, "s2-6", "digest 2"),
    ]
    assert all("of 36 labels of its data set" in bad.message for bad in found)
    assert not [*odd_scales(folder, shards[:1], Limits())], "too few to judge"
