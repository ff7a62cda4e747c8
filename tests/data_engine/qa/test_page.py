from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import SIZES, disparity_label, labelled_members, picture, png, write_folder

from data_engine.qa.facts import facts, suspicions
from data_engine.qa.findings import Findings
from data_engine.qa.gather import draw, examine, image_shard, summarise
from data_engine.verify import main
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.exclusions import BadKey
from depth_anything_train.data.schema import Record
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import fingerprint

SHAPE = (60, 80)
ALL = np.ones(SHAPE, bool)


def bumps() -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (1 + np.sin(rows / 7) * np.cos(columns / 9)).astype(np.float32)


def make_pseudo(root: Path, shards: int = 3, each: int = 4) -> Path:
    """Pseudo labels of three shards, finished ten seconds apart; sample 1 is constant and sample 2 hardly valid."""
    images, labels = [], []
    for shard in range(shards):
        numbers = range(shard * each, (shard + 1) * each)
        images.append([(f"p{n}", {"png": png(picture(n))}) for n in numbers])
        labels.append([(f"p{n}", {"disparity.dz16": disparity_label(n)}) for n in numbers])
    height, width = SIZES[1]
    labels[0][1] = (
        "p1",
        {"disparity.dz16": encode_dz16(np.ones((height, width), np.float32), np.ones((height, width), bool))},
    )
    valid = np.zeros(SIZES[2], bool)
    valid[:2] = True
    labels[0][2] = ("p2", {"disparity.dz16": encode_dz16(picture(2)[..., 0].astype(np.float32), valid)})
    write_folder(root / "images", {"kind": "images"}, images)
    folder = write_folder(
        root / "labels", {"kind": "pseudo_labels", "images": "../images", "teacher": "t", "settings": {}}, labels
    )
    for number in range(shards):
        dropped = {"truncated_image": {"count": 1, "examples": ["p9"]}} if number == 2 else {}
        manifest = {"count": each, "labelled": each - len(dropped), "dropped": dropped, "flags": {"flip": [0, 3]}}
        shard = (ShardFolder(root / "images").shard(number), ShardFolder(folder).shard(number))
        manifest |= {"input": shard[0].digest, "output": shard[1].digest, "teacher": "t", "config": fingerprint({})}
        mark = folder / f"{number:05d}.json"
        mark.write_text(json.dumps(manifest))
        os.utime(mark, (1000 + 10 * number,) * 2)
    return folder


def test_suspicions__each_score_is_largest_for_what_it_is_named_after() -> None:
    rows = np.repeat(np.linspace(0.5, 1, SHAPE[0], dtype=np.float32)[:, None], SHAPE[1], axis=1)
    spike, half = bumps(), ALL.copy()
    spike[3, 4] = 100
    half[:30] = False
    labels = {
        "flat": (np.full(SHAPE, 0.7, np.float32), ALL),
        "ramp": (rows, ALL),
        "spikes": (spike, ALL),
        "invalid": (bumps(), half),
        "": (bumps(), ALL),
    }
    scores = {name: suspicions(*label) for name, label in labels.items()}
    for name in ("flat", "ramp", "spikes", "invalid"):
        assert max(scores, key=lambda other: scores[other].get(name, 0)) == name
        assert all(0 <= one.get(name, 0) <= 1 + 1e-9 for one in scores.values())
    assert (scores["flat"]["flat"], scores["invalid"]["invalid"]) == (1, 0.5)
    assert scores["ramp"]["ramp"] > 0.999 > 0.9 > scores[""]["ramp"] and scores["spikes"]["spikes"] > 0.95
    assert suspicions(bumps(), ~ALL) == {"invalid": 1}


def test_facts__are_of_the_valid_pixels_and_of_the_image() -> None:
    disparity = np.linspace(0, 10, SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    valid = disparity >= 5
    record = Record("a", {"disparity.dz16": encode_dz16(disparity, valid)})
    one = facts(2, 3, 99, record, Record("a", {"png": png(picture(1))}))
    assert (one.shard, one.number, one.key, one.stored) == (2, 3, "a", 99)
    assert (one.middle, one.extent) == (pytest.approx(7.5, abs=0.01), pytest.approx(4.8, abs=0.01))
    assert one.valid_share == pytest.approx(0.5, abs=0.001)
    assert (one.side, one.aspect) == (28, 28 / 40)
    assert np.isnan(facts(0, 0, 0, record, Record("a", {"png": b"damaged"})).side)


def test_summarise__counts_everything_without_reading_a_sample(tmp_path: Path) -> None:
    folder = ShardFolder(make_pseudo(tmp_path))
    for path in folder.shards:  # the samples themselves; the ends stay
        whole = path.read_bytes()
        path.write_bytes(b"\1" * (len(whole) - 2000) + whole[-2000:])
    findings = Findings()
    findings.add_bad(BadKey("00001.tar", 2, "p6", "constant_label"))
    findings.add_bad(BadKey("00000.tar", 1, "p1", "mismatch", score=0.2))
    summary = summarise(ShardFolder(folder.path), findings)
    assert (summary.count, summary.dropped) == (12, {"truncated_image": 1})
    assert summary.flags["flip"].count == 6 and summary.flags["flip"].samples == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert summary.bad["constant_label"].samples == [(1, 2)] and summary.suspected["mismatch"].count == 1
    assert summary.stored == sum(path.stat().st_size for path in folder.shards)
    assert summary.rate == 8 / 20


def test_draw__takes_few_shards_and_is_the_same_for_a_seed(tmp_path: Path) -> None:
    folder = ShardFolder(make_pseudo(tmp_path))
    drawn = draw(folder, 2, 5, seed=1)
    assert len(drawn) == 2 and sum(map(len, drawn.values())) == 5
    assert all(0 <= number < 4 for numbers in drawn.values() for number in numbers)
    assert drawn == draw(folder, 2, 5, seed=1) != draw(folder, 2, 5, seed=2)
    assert draw(folder, 99, 99, seed=0) == {shard: [0, 1, 2, 3] for shard in range(3)}


def test_examine__does_not_depend_on_workers(tmp_path: Path) -> None:
    folder = make_pseudo(tmp_path)
    drawn = draw(ShardFolder(folder), 3, 7, seed=0)
    found = examine(str(folder), drawn, workers=0)
    assert len(found) == 7 and found == examine(str(folder), drawn, workers=1)


def test_command__the_page_shows_counts_and_the_worst_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = make_pseudo(tmp_path), tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["verify", f"shards={folder}", f"page={out}", "workers=0", "num_samples=3"])
    pages = []
    for _ in range(2):
        main()
        pages.append(out.read_text())
    page = pages[0]
    assert pages[0] == pages[1]
    assert not re.search(r'(src|href)="(?!data:|#)|url\((?!#)|@import', page), "nothing may be loaded from elsewhere"
    for text in ("truncated_image", "flagged: flip", "0.4 <small>/s</small>", "no problem found"):
        assert text in page
    flat = page[page.index("<h3>flat") : page.index("<h3>ramp")]
    assert "<b>1.000</b> p1<" in flat
    assert "p2<" in page[page.index("<h3>invalid") : page.index("<h3>flat")]
    assert page[page.index("At random") :].count('class="row"') == 3


def test_command__the_page_shows_each_label_beside_its_own_image_while_labels_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pseudo(tmp_path)
    for suffix in ("tar", "idx", "json"):
        (folder / f"00000.{suffix}").unlink()
    assert image_shard(str(folder), 0).path.name == "00001.tar"
    found = examine(str(folder), draw(ShardFolder(folder), 3, 8, seed=0), workers=0)
    assert {facts.key for facts in found} == {f"p{n}" for n in range(4, 12)}
    expected = examine(str(make_pseudo(tmp_path / "whole")), {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}, workers=0)
    assert [replace(one, shard=one.shard + 1) for one in found] == expected


def test_command__there_is_a_page_when_a_shard_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_pseudo(tmp_path), tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["verify", f"shards={folder}", f"page={out}", "workers=0"])
    for damage in (lambda: os.truncate(folder / "00001.tar", 1000), lambda: (folder / "00002.json").write_text("{")):
        damage()
        with pytest.raises(SystemExit):
            main()
        assert "Wrong" in out.read_text() and "00001.tar" in out.read_text()
    assert "00002.json is damaged" in out.read_text()


def test_command__what_is_wrong_is_on_the_page_of_labelled_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [(f"s{n}", labelled_members(n)) for n in range(3)]
    samples[1][1]["disparity.dz16"] = b"damaged"
    folder = write_folder(tmp_path / "shards", {"kind": "labelled"}, [samples])
    (folder / "00000.json").write_text('{"count": 3, "drops": {"no_pair": 5}, "notes": {"negative_pixels": 7}}')
    monkeypatch.setattr("sys.argv", ["verify", f"shards={folder}", f"page={tmp_path / 'page.html'}", "workers=0"])
    with pytest.raises(SystemExit):
        main()
    page = (tmp_path / "page.html").read_text()
    for text in ("no_pair", "negative_pixels", "damaged_label", "1 problems found"):
        assert text in page


def test_command__a_page_of_images_alone_is_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pseudo(tmp_path)
    monkeypatch.setattr("sys.argv", ["verify", f"shards={tmp_path / 'images'}", f"page={tmp_path / 'page.html'}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("error: Expected labels of depth in") and "holds images only" in said
