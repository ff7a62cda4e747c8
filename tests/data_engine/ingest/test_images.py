from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_engine.ingest.base import choose, make_key
from data_engine.ingest.images import Images
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def write_image(path: Path, kind: str = "") -> bytes:
    data = cv2.imencode(kind or path.suffix, np.full((6, 8, 3), 77, np.uint8))[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def reason(images: Images) -> str:
    (item,) = images.items()
    with pytest.raises(BadSample) as caught:
        images.load(item)
    return caught.value.reason


def test_images__finds_photographs_at_any_depth_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.jpg", "b2.JPG", "a/z.png", "a/.hidden.jpg", ".cache/x.jpg", "note.txt", "c.webp"):
        write_image(tmp_path / name, ".jpg")
    assert [item.path for item in Images(str(tmp_path)).items()] == ["a/z.png", "b2.JPG", "b10.jpg", "c.webp"]


def test_images__bytes_are_untouched_and_the_type_is_the_true_one(tmp_path: Path) -> None:
    data = write_image(tmp_path / "really.jpg", ".png")
    images = Images(str(tmp_path))
    sample = images.load(images.items()[0])
    assert sample.members == {"png": data} and sample.key == "really"


def test_images__keys_have_no_dots_slashes_or_spaces(tmp_path: Path) -> None:
    write_image(tmp_path / "my trip.2024/día 1.v2.jpg")
    assert Images(str(tmp_path)).items()[0].key == "my_trip_2024_día_1_v2"
    assert make_key("a/b.c d\udcff") == "a_b_c_d_"


def test_images__the_second_of_two_equal_keys_is_dropped(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b/c.jpg", "b_c.jpg"):
        write_image(tmp_path / name)
    images = Images(str(tmp_path))
    assert [item.unique for item in images.items()] == [True, False, True, False]
    with pytest.raises(BadSample) as caught:
        images.load(images.items()[1])
    assert caught.value.reason == "duplicate_key"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(pickle.dumps({"a": 1}), "image_type"), (b"PK\x03\x04" + bytes(99), "image_type"), (b"", "image_type")],
)
def test_images__what_poses_as_an_image_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(Images(str(tmp_path))) == expected


def test_images__cut_and_damaged_files_are_named(tmp_path: Path) -> None:
    data = write_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(data[:-6])
    assert reason(Images(str(tmp_path))) == "truncated_image"
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(bytes(damaged))
    assert reason(Images(str(tmp_path))) == "undecodable_image"
    images = Images(str(tmp_path), decode=False)
    assert images.load(images.items()[0]).members["png"] == bytes(damaged)


def test_images__a_file_that_vanished_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    images = Images(str(tmp_path))
    (item,) = images.items()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BadSample) as caught:
        images.load(item)
    assert caught.value.reason == "unreadable_file"


def test_images__missing_or_empty_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Images(str(tmp_path / "nowhere")).items()
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(UserError, match="photographs"):
        Images(str(tmp_path)).items()


def test_choose__draws_by_the_seed_and_keeps_the_order() -> None:
    items = list(range(100))
    drawn = choose(items, 10, seed=1)
    assert drawn == choose(items, 10, seed=1) == sorted(drawn) and len(set(drawn)) == 10
    assert drawn != choose(items, 10, seed=2)
    assert choose(items, None, 0) == choose(items, 500, 0) == items


@pytest.mark.samples
def test_images__all_real_photographs_are_read(samples_folder: Path) -> None:
    images = Images(str(samples_folder / "photos"))
    items = images.items()
    assert len(items) == 62 and all(item.unique for item in items)
    for item in items[::10]:
        assert images.load(item).key == item.key
