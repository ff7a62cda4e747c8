from __future__ import annotations

import pickle
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from films import damage, picture, read_film, write_film, write_matrix
from raw_sets import PrepareSet

from data_engine.ingest.video import Video, count_pictures
from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.sources import as_video
from depth_anything_train.inference.video_files import VideoReader
from depth_anything_train.runtime import UserError


def reasons(video: Video) -> list[str]:
    """For each item, why it cannot be used, or "ok"."""
    found = []
    for item in video.items():
        try:
            video.load(item)
            found.append("ok")
        except BadSample as error:
            found.append(error.reason)
    return found


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize(("name", "rotation"), [("a.mp4", 0), ("a.mov", 90), ("a.mkv", 0), ("a.avi", 0)])
def test_video__takes_every_nth_picture_upright(name: str, rotation: int, tmp_path: Path) -> None:
    film = write_film(tmp_path / name, 12, rotation=rotation)
    video = Video(str(film), every=5, encoding="png")
    samples = [video.load(item) for item in video.items()]
    assert [sample.key for sample in samples] == ["a-000000", "a-000005", "a-000010"]
    frames = [np.rot90(frame, rotation // 90) for frame in read_film(film)[0][::5]]
    for sample, frame in zip(samples, frames, strict=True):
        np.testing.assert_array_equal(decoded(sample.members["png"]), frame)
    assert video.source == "a"


@pytest.mark.parametrize(
    ("aspect", "matrix", "shape"),
    [
        (1, (-1, 0, 0, 1), (48, 64)),
        (1, (0, 1, 1, 0), (64, 48)),
        ("12/11", None, (48, 70)),
        (2, (0, 1, -1, 0), (128, 48)),
    ],
)
def test_video__stores_what_predict_sees(
    aspect: float | str, matrix: tuple[int, ...] | None, shape: tuple[int, int], tmp_path: Path
) -> None:
    film = write_film(tmp_path / "a.mp4", 3, audio=None, aspect=aspect)
    if matrix:
        write_matrix(film, *matrix)
    video = Video(str(film), every=1, encoding="png")
    with VideoReader(as_video(str(film))) as reader:
        seen = [frame.image for frame in reader.frames(lambda sound: None)]
    for item, image in zip(video.items(), seen, strict=True):
        stored = decoded(video.load(item).members["png"])
        assert stored.shape[:2] == shape and (stored == image).all()


def test_video__jpeg_is_near_the_picture(tmp_path: Path) -> None:
    video = Video(str(write_film(tmp_path / "a.mp4", 3)), every=2)
    assert np.abs(decoded(video.load(video.items()[1]).members["jpg"]) - picture(2, 48, 64).astype(float)).mean() < 6


def test_video__bytes_do_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_film(tmp_path / f"{name}.mp4", 9)
    video = Video(str(tmp_path), every=2)
    items = video.items()
    forward = {item: video.load(item) for item in items}
    assert {item: video.load(item) for item in reversed(items)} == forward and len(forward) == 10
    assert {item: video.load(item) for item in sorted(items, key=lambda item: item.number)} == forward


def test_items__are_small_until_they_are_asked_for(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", 40)
    items = Video(str(tmp_path), every=1).items()
    assert len(items) == 40 and items[-1] == items[39] == list(items)[-1] and len(items[10:20]) == 10
    assert len(pickle.dumps(items)) < 1000


def test_count_pictures__counts_packets_where_the_header_says_nothing(tmp_path: Path) -> None:
    assert [count_pictures(write_film(tmp_path / f"a.{name}", 7)) for name in ("mp4", "mkv", "avi")] == [7, 7, 7]


@pytest.mark.parametrize("flags", ["frag_keyframe", "frag_keyframe+empty_moov", "faststart"])
def test_count_pictures__counts_all_fragments_of_an_mp4(tmp_path: Path, flags: str) -> None:
    film = write_film(tmp_path / "a.mp4", 32, movflags=flags)
    assert count_pictures(film) == 32
    times = [number**1.5 / 25 for number in range(32)]
    assert count_pictures(write_film(tmp_path / "slower.mp4", 32, times=times, movflags=flags)) == 32


def test_video__what_cannot_be_decoded_is_counted(tmp_path: Path) -> None:
    for name, content in (
        ("pickle", pickle.dumps({})),
        ("empty", b""),
        ("list", b"ffconcat version 1.0\nfile a.mp4\n"),
    ):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    assert reasons(Video(str(tmp_path))) == ["unreadable_video"] * 3
    write_film(tmp_path / "a.mp4", 3)
    assert reasons(Video(str(tmp_path), every=1)) == ["ok"] * 3 + ["unreadable_video"] * 3


def test_video__whatever_is_damaged_is_counted(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 4)
    data, draw = film.read_bytes(), random.Random(0)
    found: set[str] = set()
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 2, 20))):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        film.write_bytes(damaged)
        found |= set(reasons(Video(str(film), every=1)))
    assert "ok" in found and found <= {"ok", "unreadable_video", "missing_picture", "image_size"}


def test_video__notes_in_another_encoding_do_not_matter(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 2)
    assert b"VideoHandler" in film.read_bytes()
    film.write_bytes(film.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert reasons(Video(str(film), every=1)) == ["ok", "ok"]


def test_video__a_damaged_picture_leaves_the_others(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 12, audio=None)
    damage(film, 5)
    found = reasons(Video(str(film), every=1))
    assert len(found) == 12 and set(found[:3]) == {"ok"} and found[-1] == "missing_picture"


def test_video__cut_off_gives_what_is_there(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv", 60, audio=None)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    found = reasons(Video(str(film), every=5))
    assert found.count("ok") >= 1 and set(found) <= {"ok", "missing_picture"}


def test_video__a_name_is_never_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "a.mp4", 1).rename(tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert reasons(Video(".")) == reasons(Video("concat:a.mp4")) == ["ok"]


def test_video__two_of_one_key_are_dropped_the_second_time(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.mp4"):
        write_film(tmp_path / name, 2)
    assert reasons(Video(str(tmp_path), every=1)) == ["ok", "ok", "duplicate_key", "duplicate_key"]


def test_video__odd_settings_and_empty_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every=1 or more"):
        Video(str(tmp_path), every=0)
    with pytest.raises(UserError, match="jpg or png"):
        Video(str(tmp_path), encoding="bmp")
    with pytest.raises(UserError, match="Expected videos"):
        Video(str(tmp_path)).items()


def test_video__through_the_command(tmp_path: Path, prepare_set: PrepareSet) -> None:
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a.mp4", 12)
    prepared = prepare_set("video", tmp_path / "films", "dataset.every=4", "dataset.encoding=png", "licence=CC0")
    assert set(prepared.samples) == {"a-000000", "a-000004", "a-000008"} and prepared.info["licences"] == {"CC0": 3}
    assert prepared.info["settings"] == {"every": 4, "encoding": "png", "count": None, "seed": 0}
