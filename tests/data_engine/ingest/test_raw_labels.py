from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_sets import cut, ramp, write, write_exr, write_h5, write_png

from data_engine.ingest.raw_labels import RawLabel, keep_valid, read_exr, read_grey8, read_h5
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import BadSample


def reason(read: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(BadSample) as caught:
        read(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_read_exr__gives_its_one_channel_as_float32(tmp_path: Path, dtype: type) -> None:
    write_exr(tmp_path / "a.exr", V=ramp(1, 90).astype(dtype))
    values = read_exr(tmp_path / "a.exr")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, ramp(1, 90).astype(dtype))


def test_read_exr__names_what_is_wrong(tmp_path: Path) -> None:
    write_exr(tmp_path / "colour.exr", R=ramp(0, 1), G=ramp(0, 1), B=ramp(0, 1))
    write_exr(tmp_path / "cut.exr", G=ramp(0, 1, 64, 64))
    cut(tmp_path / "cut.exr")
    write(tmp_path / "text.exr", b"not an image")
    names = ("colour", "cut", "text", "none")
    reasons = [reason(read_exr, tmp_path / f"{name}.exr") for name in names]
    assert reasons == ["label_type", "damaged_label", "damaged_label", "unreadable_file"]


def test_read_h5__gives_the_data_set_as_it_is(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", depth=ramp(1, 90).astype(np.float16), other=ramp(2, 3))
    np.testing.assert_array_equal(read_h5(tmp_path / "a.h5", "/depth"), ramp(1, 90).astype(np.float16), strict=True)


def test_read_h5__names_what_is_wrong(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5", stack=np.ones((2, 3, 4)), words=np.array([[b"a"]]), empty=np.ones((0, 4)))
    for name in ("depth", "stack", "words", "empty"):
        assert reason(read_h5, tmp_path / "a.h5", name) == "label_type"
    cut(tmp_path / "a.h5")
    assert reason(read_h5, tmp_path / "a.h5", "stack") == "damaged_label"
    assert reason(read_h5, tmp_path / "none.h5", "stack") == "unreadable_file"


def test_raw_label__codes_are_divided_by_the_scale_and_0_is_invalid() -> None:
    label = RawLabel.from_codes(np.array([[0, 1, 65535]], np.uint16), scale=256, quantity="disparity", unit="px")
    disparity, valid = decode_label("disparity.png", label.data, {"scale": label.scale})
    assert disparity.tolist() == [[0, 1 / 256, 65535 / 256]] and valid.tolist() == [[False, True, True]]


def test_raw_label__sky_is_invalid_in_the_label() -> None:
    sky = np.array([[True, False]])
    label = RawLabel.from_array(np.array([[9, 9]]), sky=sky)
    _, valid = decode_label("depth.npy", label.data, {"scale": label.scale})
    assert valid.tolist() == [[False, True]] and label.sky is sky


def test_read_grey8__calls_a_damaged_label_a_label(tmp_path: Path) -> None:
    write_png(tmp_path / "cut.png", np.ones((6, 8), np.uint8))
    cut(tmp_path / "cut.png")
    with pytest.raises(BadSample, match="The file of the label is no sound PNG") as caught:
        read_grey8(tmp_path / "cut.png")
    assert caught.value.reason == "damaged_label"


def test_read_grey8__takes_grey_and_colour_of_8_bits_alone(tmp_path: Path) -> None:
    grey = np.array([[0, 7, 255]], np.uint8)
    write_png(tmp_path / "grey.png", grey)
    write_png(tmp_path / "colour.png", np.repeat(grey[..., None], 3, axis=-1))
    write_png(tmp_path / "deep.png", grey.astype(np.uint16))
    write(tmp_path / "text.png", b"not an image")
    for name in ("grey", "colour"):
        np.testing.assert_array_equal(read_grey8(tmp_path / f"{name}.png"), grey, strict=True)
    reasons = [reason(read_grey8, tmp_path / f"{name}.png") for name in ("deep", "text", "none")]
    assert reasons == ["label_type", "damaged_label", "unreadable_file"]


def test_keep_valid__needs_a_mask_of_the_same_size() -> None:
    codes = np.array([[5, 6, 7]], np.uint16)
    np.testing.assert_array_equal(
        keep_valid(codes, np.array([[True, False, True]])), np.array([[5, 0, 7]], np.uint16), strict=True
    )
    assert reason(keep_valid, codes, np.ones((3, 1), bool)) == "mask_size"
