"""The paper's eight unlabelled sets in miniatures of their owners' layout, through the command."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from archive_files import photo, write_files, write_lmdb, write_tar
from films import picture, write_film
from raw_sets import Prepared, PrepareSet

from depth_anything_train.composition import compose
from depth_anything_train.data.shards import ShardFolder


def check(prepared: Prepared, source: str, expected: dict[str, bytes]) -> None:
    """The images are all there under their keys, with their bytes untouched and nothing beside them."""
    found = {key: record.members for key, record in prepared.samples.items()}
    assert found == {key: {"webp" if data[:4] == b"RIFF" else "jpg": data} for key, data in expected.items()}
    assert (prepared.info["source"], prepared.info["kind"]) == (source, "images")
    assert prepared.info["drops"] == {} and list(prepared.info["licences"].values()) == [len(expected)]
    assert "unknown" not in prepared.info["licences"]


def test_bdd100k__takes_one_picture_in_ten_of_every_video(tmp_path: Path, prepare_set: PrepareSet) -> None:
    for part, name in (("train", "0000f77c-6257be58"), ("train", "0000f77c-62c2a288"), ("val", "b1c66a42-6f7d68ca")):
        (tmp_path / "bdd100k/videos" / part).mkdir(parents=True, exist_ok=True)
        write_film(tmp_path / "bdd100k/videos" / part / f"{name}.mov", 25, audio=None)
    prepared = prepare_set("bdd100k", tmp_path / "bdd100k/videos")
    names = ("train_0000f77c-62c2a288", "train_0000f77c-6257be58", "val_b1c66a42-6f7d68ca")
    assert set(prepared.samples) == {f"{name}-{number:06d}" for name in names for number in (0, 10, 20)}
    for number in (0, 10, 20):
        data = np.frombuffer(prepared.samples[f"{names[0]}-{number:06d}"].image, np.uint8)
        found = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(float)
        assert np.argmin([np.abs(found - picture(n, 48, 64)).mean() for n in range(25)]) == number
    assert prepared.info["licences"] == {"BDD100K licence": 9}


@pytest.mark.parametrize("unpacked", [False, True])
def test_google_landmarks__by_first_letters(tmp_path: Path, prepare_set: PrepareSet, unpacked: bool) -> None:
    members = {
        f"{name[0]}/{name[1]}/{name[2]}/{name}.jpg": photo(int(name, 16) % 97) for name in ("01ab", "0f12", "a0b1")
    }
    train = tmp_path / "train"
    if unpacked:
        write_files(train, members)
    else:
        write_tar(train / "images_000.tar", dict(list(members.items())[:2]))
        write_tar(train / "images_001.tar", dict(list(members.items())[2:]))
    keys = {name: ("" if unpacked else f"images_00{number // 2}_") for number, name in enumerate(members)}
    expected = {keys[name] + name[:-4].replace("/", "_"): data for name, data in members.items()}
    check(prepare_set("google_landmarks", train), "google_landmarks", expected)


@pytest.mark.parametrize("unpacked", [False, True])
def test_imagenet21k__a_tar_or_a_folder_a_class(tmp_path: Path, prepare_set: PrepareSet, unpacked: bool) -> None:
    expected = {}
    for number, wnid in enumerate(("n00004475", "n02352591")):
        members = {f"{wnid}_{n}.JPEG": photo(10 * number + n) for n in (3, 12)}
        if unpacked:
            write_files(tmp_path / "winter21_whole" / wnid, members)
        else:
            write_tar(tmp_path / "winter21_whole" / f"{wnid}.tar", members)
        expected |= {f"{wnid}_{name[:-5]}": data for name, data in members.items()}
    check(prepare_set("imagenet21k", tmp_path / "winter21_whole"), "imagenet21k", expected)


def test_lsun__values_of_one_database_a_category(tmp_path: Path, prepare_set: PrepareSet) -> None:
    expected = {}
    for category in ("bedroom", "church_outdoor"):
        values = {f"{n:040x}": photo(n, "webp") for n in (1, 2**100, 2**150)}
        write_lmdb(tmp_path / f"{category}_train_lmdb", values)
        expected |= {f"{category}_train_lmdb_{key}": data for key, data in values.items()}
    check(prepare_set("lsun", tmp_path), "lsun", expected)


@pytest.mark.parametrize("unpacked", [False, True])
def test_objects365__patches(tmp_path: Path, prepare_set: PrepareSet, unpacked: bool) -> None:
    expected = {}
    for patch, name in ((0, "objects365_v1_00000000"), (0, "objects365_v1_00000002"), (16, "objects365_v2_00908726")):
        expected[f"patch{patch}_{name}"] = photo(len(expected))
    for patch in (0, 16):
        members = {key.partition("_")[2]: data for key, data in expected.items() if key.startswith(f"patch{patch}_")}
        if unpacked:
            write_files(tmp_path / f"patch{patch}", {f"{name}.jpg": data for name, data in members.items()})
        else:  # the official archives have the folder inside
            files = {f"patch{patch}/{name}.jpg": data for name, data in members.items()}
            write_tar(tmp_path / f"patch{patch}.tar.gz", files)
    twice = {f"{key.partition('_')[0]}_{key}": data for key, data in expected.items()}
    check(prepare_set("objects365", tmp_path), "objects365", expected if unpacked else twice)


@pytest.mark.parametrize("unpacked", [False, True])
def test_open_images__by_first_digit(tmp_path: Path, prepare_set: PrepareSet, unpacked: bool) -> None:
    expected = {}
    for digit in "0f":
        members = {f"train_{digit}/{digit}{n:015x}.jpg": photo(16 * n + int(digit, 16)) for n in range(3)}
        if unpacked:
            write_files(tmp_path, members)
        else:
            write_tar(tmp_path / f"train_{digit}.tar.gz", members)
        folder = "" if unpacked else f"train_{digit}_"
        expected |= {folder + name[:-4].replace("/", "_"): data for name, data in members.items()}
    check(prepare_set("open_images", tmp_path), "open_images", expected)


@pytest.mark.parametrize("unpacked", [False, True])
def test_places365__one_large_tar(tmp_path: Path, prepare_set: PrepareSet, unpacked: bool) -> None:
    scenes = ("a/airfield", "b/basement", "f/field/wild")
    members = {f"data_large/{scene}/{n:08d}.jpg": photo(7 * len(scene) + n) for scene in scenes for n in (1, 2)}
    root = write_files(tmp_path / "places", members) if unpacked else tmp_path / "train_large_places365standard.tar"
    if not unpacked:
        write_tar(root, members)
    expected = {name[:-4].replace("/", "_"): data for name, data in members.items()}
    check(prepare_set("places365", root), "places365", expected)


def sa1b(folder: Path) -> dict[str, bytes]:
    """Two tars with photographs beside their masks; the photographs by number."""
    photos = {f"sa_{n}": photo(n) for n in (1, 2, 30, 31)}
    for number, names in enumerate((("sa_1", "sa_2"), ("sa_30", "sa_31"))):
        members = {f"{name}.{extension}": b"{}" for name in names for extension in ("jpg", "json")}
        members |= {f"{name}.jpg": photos[name] for name in names}
        write_tar(folder / f"sa_{number:06d}.tar", members)
    return photos


def test_sa1b__photographs_without_their_masks(tmp_path: Path, prepare_set: PrepareSet) -> None:
    photos = sa1b(tmp_path / "sa1b")
    expected = {f"sa_{0 if len(key) < 5 else 1:06d}_{key}": data for key, data in photos.items()}
    check(prepare_set("sa1b", tmp_path / "sa1b"), "sa1b", expected)


def test_sa1b__its_tars_are_image_shards_as_they_are(tmp_path: Path) -> None:
    photos = sa1b(tmp_path / "sa1b")
    assert {record.key: record.image for record in ShardFolder(tmp_path / "sa1b")} == photos


@pytest.mark.parametrize(
    "dataset",
    ["bdd100k", "google_landmarks", "imagenet21k", "lsun", "objects365", "open_images", "places365", "sa1b"],
)
def test_presets__hold_ten_thousand_images_a_shard_unless_told_otherwise(dataset: str) -> None:
    given = [f"dataset={dataset}", "root=r", "out=o"]
    assert compose("prepare", given).samples_per_shard == 10_000
    assert compose("prepare", [*given, "samples_per_shard=500"]).samples_per_shard == 500
