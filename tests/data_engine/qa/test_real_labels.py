"""Real photographs with real labels: none is called bad, and what was spoilt on purpose is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import encode

from data_engine.ingest.pairs import Pairs
from data_engine.prepare import prepare
from data_engine.qa.findings import Findings
from data_engine.verify import ENOUGH_PAIRS, SOUND_AGREEMENT, show, verify
from data_engine.writer import ShardWriter
from depth_anything_train.data.exclusions import BadKey, write_bad_keys
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.schema import Record
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import LabelledSource

pytestmark = pytest.mark.samples

PAIRS = 50
Members = Mapping[str, bytes]


@pytest.fixture(scope="module")
def clean(samples_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    prepare(Pairs(str(samples_folder), source="samples"), folder, workers=0)
    return folder


def spoil(clean: Path, out: Path, change: Callable[[int, dict[str, bytes]], Members]) -> tuple[Findings, list[BadKey]]:
    """Verify the same shard after each sample was changed; also what is bad or suspected."""
    with ShardWriter(out / "00000.tar") as writer:
        for number, record in enumerate(ShardFolder(clean)):
            members = {name: bytes(content) for name, content in record.members.items()}
            writer.add(record.key, change(number, members))
        writer.commit()
    (out / "dataset.json").write_text((clean / "dataset.json").read_text())
    bad: list[BadKey] = []
    return verify(out, workers=0, on_bad=bad.append), bad


def label_of(members: Members) -> str:
    (extension,) = [name for name in members if name.startswith(("depth.", "disparity."))]
    return extension


def in_metres(record: Record) -> bool:
    return record.meta["unit"] == "m"


def scaled(members: dict[str, bytes], factor: float) -> Members:
    meta = json.loads(members["json"])
    return members | {"json": json.dumps(meta | {"scale": meta["scale"] / factor}).encode()}


def found(bad: list[BadKey], reason: str) -> list[int]:
    return [one.number for one in bad if one.reason == reason]


def test_verify__no_real_pair_is_bad_or_suspected(clean: Path) -> None:
    findings = verify(clean, workers=0)
    assert findings.samples == PAIRS == findings.compared
    assert findings.bad == findings.suspected == {} and findings.wrong == []
    assert findings.agreement > 0.9


@pytest.mark.parametrize("factor", [1000, 1 / 1000])
def test_verify__single_labels_in_another_unit_are_found(clean: Path, tmp_path: Path, factor: float) -> None:
    spoilt = list(range(3, 46, 7))
    _, bad = spoil(clean, tmp_path, lambda n, members: scaled(members, factor) if n in spoilt else members)
    odd = found(bad, "outlying_scale")
    assert sorted({*odd, *found(bad, "implausible_scale")}) == spoilt
    assert len(odd) >= len(spoilt) - 1


def test_verify__a_whole_folder_in_millimetres_is_found(clean: Path, tmp_path: Path) -> None:
    metric = [n for n, record in enumerate(ShardFolder(clean)) if in_metres(record)]
    _, bad = spoil(clean, tmp_path, lambda n, members: scaled(members, 1000))
    too_far = found(bad, "implausible_scale")
    assert set(too_far) <= set(metric) and len(too_far) >= len(metric) - 1  # one was 0.45 m away


def test_verify__shuffled_labels_fit_no_better_than_chance_and_half_of_them_are_suspected(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = list(ShardFolder(clean))
    order = np.random.default_rng(0).permutation(PAIRS)

    def swap(number: int, members: dict[str, bytes]) -> Members:
        other = records[order[number]]
        height, width = decode_image(other.image).shape[:2]
        image = cv2.resize(decode_image(records[number].image), (width, height))  # else its aspect would tell
        return {"jpg": encode(image)} | {name: other.members[name] for name in (label_of(other.members), "json")}

    findings, bad = spoil(clean, tmp_path, swap)
    assert findings.compared >= ENOUGH_PAIRS and abs(findings.agreement - 0.5) < 0.15
    assert 15 <= len(found(bad, "mismatch")) <= 35
    assert findings.wrong == [] and findings.num_suspected == len(bad)  # no more than a suspicion
    assert findings.agreement < SOUND_AGREEMENT
    show(findings, tmp_path)
    assert "are they matched rightly?" in capsys.readouterr().err


def test_verify__mostly_empty_and_constant_labels_are_found(clean: Path, tmp_path: Path) -> None:
    def change(number: int, members: dict[str, bytes]) -> Members:
        extension = label_of(members)
        if number % 5 or not extension.endswith("png"):
            return members
        stored = cv2.imdecode(np.frombuffer(members[extension], np.uint8), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        if number % 10 == 0:
            measured = np.flatnonzero(stored)
            kept = measured[:: 2000 * measured.size // stored.size]  # 0.05 % of all pixels
            emptied = np.zeros_like(stored)
            emptied.flat[kept] = stored.flat[kept]
            stored = emptied
        else:
            stored[stored > 0] = 1700
        return members | {extension: cv2.imencode(".png", stored)[1].tobytes()}

    _, bad = spoil(clean, tmp_path, change)
    assert found(bad, "nearly_empty") == [0, 10, 20, 30, 40]
    assert found(bad, "constant_label") == [5, 15, 25, 35, 45]
    write_bad_keys(tmp_path, bad)
    assert len(LabelledSource([tmp_path])) == PAIRS - 10
