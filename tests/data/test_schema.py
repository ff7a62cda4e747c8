from __future__ import annotations

import pickle

import pytest

from depth_anything_train.data.schema import BadSample, Record, check_member_name, split_name


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("a.v2.JPG", "a.v2", "jpg"),
        ("dir.x/a.v2.jpg", "dir.x/a.v2", "jpg"),
        ("a.depth.png", "a", "depth.png"),
        ("a.v2.disparity.dz16", "a.v2", "disparity.dz16"),
        ("a.classes.png", "a", "classes.png"),
        ("a.seg.png", "a.seg", "png"),
        ("depth.png", "depth", "png"),
        ("dir/depth.png", "dir/depth", "png"),
        ("README", "README", ""),
    ],
)
def test_split_name__cuts_before_the_known_extension(name: str, key: str, extension: str) -> None:
    assert split_name(name) == (key, extension)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "a\0.jpg"])
def test_check_member_name__refuses_names_that_leave_the_folder(name: str) -> None:
    with pytest.raises(BadSample) as caught:
        check_member_name(name)
    assert caught.value.reason == "unsafe_name"


def test_check_member_name__accepts_dots_inside_names() -> None:
    assert check_member_name("./a..b/c.jpg") == "a..b/c.jpg"


def test_record__finds_image_label_and_json() -> None:
    record = Record("a", {"json": b'{"scale": 2}', "webp": b"w", "depth.npy": b"n"})
    assert (record.image, record.label(), record.meta) == (b"w", ("depth.npy", b"n"), {"scale": 2})


def test_record__of_views_is_read_and_pickled_as_one_of_bytes() -> None:
    members = {"json": b'{"scale": 2}', "webp": b"w", "depth.npy": b"n"}
    views = Record("a", {extension: memoryview(content) for extension, content in members.items()})
    assert views == Record("a", members) and views.meta == {"scale": 2}
    assert all(type(content) is bytes for content in pickle.loads(pickle.dumps(views)).members.values())
    assert pickle.loads(pickle.dumps(views)) == views


def test_record__json_may_be_missing() -> None:
    assert Record("a", {}).meta == {}


@pytest.mark.parametrize(
    ("members", "part", "reason"),
    [
        ({"txt": b""}, "image", "missing_image"),
        ({"txt": b""}, "label", "missing_label"),
        ({"depth.png": b"", "depth.npy": b""}, "label", "label_type"),
        ({"json": b"{"}, "meta", "bad_json"),
        ({"json": b"\xff"}, "meta", "bad_json"),
        ({"json": b"[1]"}, "meta", "bad_json"),
        ({"json": b"[" * 100_000}, "meta", "bad_json"),
    ],
)
def test_record__names_what_is_wrong(members: dict[str, bytes], part: str, reason: str) -> None:
    record = Record("the_key", members)
    with pytest.raises(BadSample, match="the_key") as caught:
        record.label() if part == "label" else getattr(record, part)
    assert caught.value.reason == reason


def test_bad_sample__keeps_its_reason_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadSample("label_size", "too small")))
    assert (error.reason, str(error)) == ("label_size", "too small")
