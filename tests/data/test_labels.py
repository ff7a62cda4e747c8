from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.labels import (
    add_sky,
    check_shape,
    decode_label,
    decode_sky,
    read_npy,
    to_unit_range,
)
from depth_anything_train.data.schema import BadSample


def png16(stored: NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", stored)[1].tobytes()


def npy(stored: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, stored)
    return file.getvalue()


def test_decode_label__depth_png_becomes_inverse_metres() -> None:
    stored = np.array([[0, 500, 1000, 65535, 4000]], np.uint16)
    disparity, valid = decode_label("depth.png", png16(stored), {"scale": 1000, "invalid": 65535})
    assert valid.tolist() == [[False, True, True, False, True]]
    np.testing.assert_allclose(disparity, [[0, 2, 1, 0, 0.25]])
    assert disparity.dtype == np.float32


def test_decode_label__disparity_png_keeps_its_values() -> None:
    stored = np.array([[0, 256, 65535]], np.uint16)
    disparity, valid = decode_label("disparity.png", png16(stored), {"scale": 256.0, "invalid": None})
    assert valid.tolist() == [[False, True, True]]
    np.testing.assert_allclose(disparity, [[0, 1, 65535 / 256]])


@pytest.mark.parametrize("quantity", ["depth", "disparity"])
def test_decode_label__npy_guards_every_kind_of_bad_number(quantity: str) -> None:
    stored = np.array([[-1, 0, np.nan, np.inf, -np.inf, 99, 2]], np.float32)
    disparity, valid = decode_label(f"{quantity}.npy", npy(stored), {"scale": 2.0, "invalid": 99})
    assert valid.tolist() == [[False] * 6 + [True]]
    assert disparity.tolist() == [[0] * 6 + [1]]


@pytest.mark.parametrize(("stored", "scale"), [([1e39, 2.0], 1), ([1e30, 2.0], 1e-20), ([2e-30, 2.0], 1e20)])
def test_decode_label__what_float32_cannot_hold_is_invalid(stored: list[float], scale: float) -> None:
    disparity, valid = decode_label("disparity.npy", npy(np.array([stored])), {"scale": scale})
    assert valid.tolist() == [[False, True]] and disparity.tolist() == [[0, np.float32(2) / np.float32(scale)]]


def test_decode_label__depth_too_small_to_invert_is_invalid() -> None:
    disparity, valid = decode_label("depth.npy", npy(np.array([[1e-44, 1.0]], np.float32)), {"scale": 1})
    assert valid.tolist() == [[False, True]] and disparity.tolist() == [[0, 1]]


def test_decode_label__dz16_depth_is_inverted_and_needs_no_scale() -> None:
    depth_m = np.array([[1.0, 2.0, 4.0]], np.float32)
    disparity, valid = decode_label("depth.dz16", encode_dz16(depth_m, np.ones((1, 3), bool)), {})
    np.testing.assert_allclose(disparity, [[1, 0.5, 0.25]], rtol=1e-4)
    assert valid.all()


def test_decode_label__dz16_is_divided_by_the_scale_and_guarded_as_the_others() -> None:
    stored = np.array([[0, 1e30, 2e30]], np.float32)
    data = encode_dz16(stored, np.ones((1, 3), bool))
    disparity, valid = decode_label("disparity.dz16", data, {"scale": 1e30})
    np.testing.assert_allclose(disparity, [[0, 1, 2]], rtol=1e-4)
    assert valid.all()
    disparity, valid = decode_label("disparity.dz16", data, {"scale": 4e-9})  # 1e30 / 4e-9 < 3.4e38 < 2e30 / 4e-9
    assert valid.tolist() == [[True, True, False]] and disparity[0, 2] == 0


@pytest.mark.parametrize("scale", [None, 0, -1, float("inf"), float("nan"), "1000", 10**400])
def test_decode_label__a_missing_or_senseless_scale_is_named(scale: Any) -> None:
    with pytest.raises(BadSample, match="scale") as caught:
        decode_label("depth.png", png16(np.ones((2, 2), np.uint16)), {"scale": scale})
    assert caught.value.reason == "label_meta"


@pytest.mark.parametrize("invalid", ["65535", [0, 65535], {}])
def test_decode_label__a_mark_that_is_no_number_is_named(invalid: Any) -> None:
    with pytest.raises(BadSample, match="Expected a number as invalid") as caught:
        decode_label("depth.png", png16(np.ones((2, 2), np.uint16)), {"scale": 1, "invalid": invalid})
    assert caught.value.reason == "label_meta"


@pytest.mark.parametrize(
    ("extension", "data"),
    [
        ("depth.png", cv2.imencode(".png", np.ones((4, 4), np.uint8))[1].tobytes()),
        ("depth.png", cv2.imencode(".png", np.ones((4, 4, 3), np.uint16))[1].tobytes()),
        ("depth.png", cv2.imencode(".jpg", np.ones((4, 4), np.uint8))[1].tobytes()),
        ("depth.exr", b""),
        ("depth.npy", npy(np.ones((4, 4, 1), np.float32))),
        ("depth.npy", npy(np.ones((4, 4), np.complex64))),
        ("depth.npy", npy(np.ones((0, 4), np.float32))),
        ("depth.npy", b"PK\x03\x04" + bytes(100)),
        ("depth.npy", b""),
    ],
)
def test_decode_label__another_type_is_named(extension: str, data: bytes) -> None:
    with pytest.raises(BadSample) as caught:
        decode_label(extension, data, {"scale": 1})
    assert caught.value.reason == "label_type"


@pytest.mark.parametrize("shape", [b"\xb840, 50)", b"(((((((", b"--------", b"'"])
def test_read_npy__a_header_that_is_no_header_is_named(shape: bytes) -> None:
    data = npy(np.ones((40, 50), np.float32)).replace(b"(40, 50)", shape)
    with pytest.raises(BadSample, match="its header is bad"):
        read_npy(data)


def test_decode_label__cut_files_are_found() -> None:
    for extension, data in (
        ("depth.png", png16(np.ones((9, 9), np.uint16))),
        ("depth.npy", npy(np.ones((9, 9), np.float32))),
    ):
        for length in range(10, len(data), 5):
            with pytest.raises(BadSample):
                decode_label(extension, data[:length], {"scale": 1})


def test_read_npy__never_loads_a_pickle(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    file = io.BytesIO()
    np.save(file, np.array([[Payload()]], object), allow_pickle=True)
    with pytest.raises(BadSample):
        read_npy(file.getvalue())
    assert not (tmp_path / "ran").exists()


def test_read_npy__does_not_trust_the_shape_in_the_header() -> None:
    data = npy(np.ones((2, 2), np.float32)).replace(b"(2, 2)", b"(9999, 9999)"[:12])
    with pytest.raises(BadSample):
        read_npy(data)


def test_read_npy__reads_fortran_order_and_either_byte_order() -> None:
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_npy(npy(np.asfortranarray(stored))), stored)
    np.testing.assert_array_equal(read_npy(npy(stored.astype(">f4"))), stored)


@pytest.mark.parametrize("label", [(480, 640), (240, 320), (192, 257), (36, 48), (960, 1280)])
def test_check_shape__another_size_of_the_same_shape_passes(label: tuple[int, int]) -> None:
    check_shape((480, 640), label)


@pytest.mark.parametrize("label", [(640, 480), (480, 600), (100, 100)])
def test_check_shape__another_shape_is_refused(label: tuple[int, int]) -> None:
    with pytest.raises(BadSample) as caught:
        check_shape((480, 640), label)
    assert caught.value.reason == "label_size"


def mask(sky: NDArray[np.bool_]) -> bytes:
    return cv2.imencode(".png", sky.astype(np.uint8))[1].tobytes()


def test_decode_sky__takes_the_nearest_pixel_at_the_size_of_the_label() -> None:
    upper = np.arange(6)[:, None] < np.full((6, 8), 2)
    np.testing.assert_array_equal(decode_sky(mask(upper), (6, 8)), upper)
    np.testing.assert_array_equal(decode_sky(mask(upper), (18, 24)), np.arange(18)[:, None] < np.full((18, 24), 6))
    np.testing.assert_array_equal(decode_sky(mask(upper), (3, 4)), np.arange(3)[:, None] < np.full((3, 4), 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png16(np.ones((6, 8), np.uint16)), "label_type"),
        (cv2.imencode(".png", np.ones((6, 8, 3), np.uint8))[1].tobytes(), "label_type"),
        (cv2.imencode(".jpg", np.ones((6, 8), np.uint8))[1].tobytes(), "label_type"),
        (mask(np.ones((6, 8), bool))[:-5], "damaged_label"),
        (mask(np.ones((6, 8), bool)).replace(b"IDAT", b"XXXX"), "damaged_label"),
    ],
)
def test_decode_sky__names_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode_sky(data, (6, 8))
    assert caught.value.reason == reason


def test_add_sky__is_valid_and_farthest_only_where_nothing_is_labelled() -> None:
    depth_m = np.array([[5, 0, 0], [5, 2, 0]], np.float32)
    sky = np.array([[True, True, False], [False, True, True]])
    label = decode_label("depth.npy", npy(depth_m), {"scale": 1})
    disparity, valid = add_sky(label, sky)
    np.testing.assert_allclose(disparity, [[0.2, 0, 0], [0.2, 0.5, 0]])
    np.testing.assert_array_equal(valid, [[True, True, False], [True, True, True]])


def test_add_sky__a_label_without_a_valid_pixel_stays_so() -> None:
    nothing = np.zeros((2, 2), bool)
    _, valid = add_sky((np.zeros((2, 2), np.float32), nothing), ~nothing)
    assert not valid.any()


def test_to_unit_range__ignores_invalid_pixels_and_keeps_sky_lowest():
    disparity = np.array([[0, 2, 4], [np.nan, -3, 1e9]], np.float32)
    valid = np.array([[True, True, True], [False, False, False]])
    assert to_unit_range(disparity, valid).tolist() == [[0, 0.5, 1], [0, 0, 0]]


def test_to_unit_range__a_constant_map_becomes_zero():
    assert (to_unit_range(np.full((2, 2), 7, np.float32), np.ones((2, 2), bool)) == 0).all()
