from __future__ import annotations

import contextlib
import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.leaks.command import main
from data_engine.leaks.search import Limits, find_leaks
from data_engine.world import render
from data_engine.writer import ShardWriter
from depth_anything_train.data.exclusions import read_bad_keys
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import UserError

Picture = NDArray[np.uint8]


def scene(index: int) -> Picture:
    return render("street-day", seed=5, index=index, height=120, width=160).image


def encode(image: Picture, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def write(folder: Path, shards: list[dict[str, bytes]], kind: str = "images", **info: str) -> str:
    for number, samples in enumerate(shards):
        with ShardWriter(folder / f"{number:05d}.tar") as writer:
            for key, data in samples.items():
                writer.add(key, {"jpg": data})
            writer.commit()
    (folder / "dataset.json").write_text(json.dumps({"schema": 1, "kind": kind, "source": "scenes", **info}))
    return str(folder)


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four test images in two shards."""
    folder = tmp_path_factory.mktemp("tests")
    return write(folder, [{f"test-{n}": encode(scene(n)) for n in pair} for pair in ((0, 1), (2, 3))])


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Copies of three of them between other images, one that cannot be read and one that shows nothing."""
    others = {f"other-{n}": encode(scene(n)) for n in range(10, 16)}
    first = {"small": encode(cv2.resize(scene(0), (100, 75), interpolation=cv2.INTER_AREA), 50), **others}
    second = {
        "broken": encode(scene(1))[:-50],
        "mirrored": encode(scene(1)[:, ::-1], 70),
        "blank": encode(np.zeros_like(scene(0))),
        "cropped": encode(scene(2)[4:, 6:]),
    }
    return write(tmp_path_factory.mktemp("train"), [first, second])


def test_find_leaks__finds_the_planted_copies_and_nothing_else(tmp_path: Path, train: str, tests: str) -> None:
    report = find_leaks([train], [tests], tmp_path, workers=0)
    found = {(leak.train_key, leak.test_key, leak.mirrored) for leak in report.leaks}
    assert found == {("small", "test-0", False), ("mirrored", "test-1", True), ("cropped", "test-2", False)}
    assert (report.train_images, report.test_images) == (11, 4)
    assert report.skipped == {"truncated_image": 1, "blank_image": 1}


def test_find_leaks__does_not_depend_on_workers_or_on_what_was_done_before(
    tmp_path: Path, train: str, tests: str
) -> None:
    alone = find_leaks([train], [tests], tmp_path / "alone", workers=0)
    hashes = sorted((tmp_path / "alone" / "hashes").iterdir())
    assert len(hashes) == 2
    times = [file.stat().st_mtime_ns for file in hashes]
    assert find_leaks([train], [tests], tmp_path / "two", workers=2) == alone
    hashes[1].unlink()  # as a run that was stopped leaves it
    next((tmp_path / "alone" / "found").iterdir()).unlink()
    assert find_leaks([train], [tests], tmp_path / "alone", workers=0) == alone
    assert hashes[0].stat().st_mtime_ns == times[0]


def test_find_leaks__other_limits_are_not_answered_with_the_old_result(tmp_path: Path, train: str, tests: str) -> None:
    assert len(find_leaks([train], [tests], tmp_path, workers=0).leaks) == 3
    assert len(find_leaks([train], [tests], tmp_path, workers=0, limits=Limits(min_correlation=0.999)).leaks) < 3


def test_find_leaks__pseudo_labels_stand_for_their_images(tmp_path: Path, train: str, tests: str) -> None:
    labels = write(tmp_path / "labels", [{"a": b""}], "pseudo_labels", images=train)
    report = find_leaks([labels], [tests], tmp_path / "out", workers=0)
    assert {leak.train_key for leak in report.leaks} == {"small", "mirrored", "cropped"}


def test_find_leaks__photographs_of_the_same_place_are_not_copies(tmp_path: Path, samples_folder: Path) -> None:
    photos = sorted((samples_folder / "photos").glob("pt_*.jpg"))
    data = {photo.stem: photo.read_bytes() for photo in photos}
    halves = dict(list(data.items())[::2]), dict(list(data.items())[1::2])
    train, tests = (write(tmp_path / name, [half]) for name, half in zip(("a", "b"), halves, strict=True))
    assert find_leaks([train], [tests], tmp_path / "out", workers=0).leaks == []
    assert len(find_leaks([train], [train], tmp_path / "out", workers=0).leaks) == len(halves[0])


def test_command__writes_list_and_page_and_its_status_says_that_there_are_copies(
    tmp_path: Path, train: str, tests: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [f"train=[{train}]", f"test={tests}", f"out={out}", "workers=0", "exclude=true"]
    monkeypatch.setattr("sys.argv", ["leaks", *arguments])
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 1
    rows = list(csv.DictReader((out / "leaks.csv").read_text().splitlines()))
    assert [row["train_key"] for row in rows if row["mirrored"] == "True"] == ["mirrored"]
    page = (out / "leaks.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6 and "http" not in page
    assert "3 copies" in capsys.readouterr().err
    bad = [*read_bad_keys(Path(train))]
    assert {(one.key, one.reason) for one in bad} == {(key, "test_image") for key in ("small", "mirrored", "cropped")}
    folder = ShardFolder(train)
    assert all(folder.shard(int(one.shard[:5])).read(one.number).key == one.key for one in bad)


def test_command__another_test_set_does_not_take_away_what_the_first_excluded(
    tmp_path: Path, train: str, tests: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other", [{"test-9": encode(scene(11))}])

    def excluded(test: str, **limits: float) -> set[str]:
        more = [f"{name}={value}" for name, value in limits.items()]
        arguments = [f"train={train}", f"test={test}", f"out={tmp_path / 'out'}", "workers=0", "exclude=true", *more]
        monkeypatch.setattr("sys.argv", ["leaks", *arguments])
        with contextlib.suppress(SystemExit):
            main()
        return {one.key for one in read_bad_keys(Path(train))}

    first = {"small", "mirrored", "cropped"}
    assert excluded(tests) == first
    assert excluded(other) == first | {"other-11"}
    assert excluded(f"{tests}/../{Path(tests).name}/", min_correlation=1.0) == {"other-11"}


def test_command__a_copy_of_two_test_sets_stays_out_until_neither_finds_it(
    tmp_path: Path, train: str, tests: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, again = shutil.copytree(train, tmp_path / "train"), shutil.copytree(tests, tmp_path / "again")
    (mine / "bad_keys.jsonl").unlink(missing_ok=True)

    def excluded(*test: str, **limits: float) -> set[str]:
        more = [f"{name}={value}" for name, value in limits.items()]
        arguments = [f"train={mine}", f"test=[{','.join(test)}]", f"out={tmp_path / 'out'}", "workers=0"]
        monkeypatch.setattr("sys.argv", ["leaks", *arguments, "exclude=true", *more])
        with contextlib.suppress(SystemExit):
            main()
        return {one.key for one in read_bad_keys(mine)}

    copies = {"small", "mirrored", "cropped"}
    assert excluded(tests, str(again)) == copies
    assert excluded(tests, min_correlation=1.0) == copies, "they are still in the other set"
    assert excluded(str(again), min_correlation=1.0) == set()


def test_command__excludes_nothing_where_train_and_test_are_the_same(
    tmp_path: Path, tests: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(tests)
    arguments = [f"train={tests}", f"test={tmp_path / 'link'}", f"out={tmp_path}", "workers=0", "exclude=true"]
    monkeypatch.setattr("sys.argv", ["leaks", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "other images in test than in train" in capsys.readouterr().err
    assert list(read_bad_keys(Path(tests))) == []


def test_find_leaks__a_file_of_hashes_that_was_cut_is_made_again(tmp_path: Path, train: str, tests: str) -> None:
    report = find_leaks([train], [tests], tmp_path, workers=0)
    for file in (tmp_path / "tests").iterdir():
        file.write_bytes(b"")
    assert find_leaks([train], [tests], tmp_path, workers=0) == report


def test_command__status_is_0_without_copies(tmp_path: Path, tests: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = write(tmp_path / "others", [{str(n): encode(scene(n)) for n in range(20, 23)}])
    monkeypatch.setattr("sys.argv", ["leaks", f"train={others}", f"test={tests}", f"out={tmp_path}", "workers=0"])
    main()
    assert (tmp_path / "leaks.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("limits", [{"max_distance": 33}, {"min_correlation": 0.0}])
def test_limits__that_call_everything_a_copy_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UserError, match="Expected m"):
        Limits(**limits)
