from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from depth_anything_train.data.labels import (
    add_sky,
    check_shape,
    decode_dz16,
    decode_label,
    decode_sky,
    encode_dz16,
    read_npy,
)
from depth_anything_train.data.schema import BadSample

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
VALUES = st.floats(0, 1e6, width=32)


def smooth(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8 + 2, width // 8 + 2), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def png16(stored: NDArray[np.uint16]) -> bytes:
    return cv2.imencode(".png", stored)[1].tobytes()


def npy(stored: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, stored)
    return file.getvalue()


def slow_decode(data: bytes) -> tuple[list[list[float]], list[list[bool]]]:
    """The format as its docstring says it, number by number."""
    content = zstandard.ZstdDecompressor().decompress(data[8:])
    height, width, offset, step = struct.unpack_from("<IIff", content)
    planes = content[16:]
    codes = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            at = y * width + x
            zigzag = planes[at] + 256 * planes[height * width + at]
            delta = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
            up = codes[y - 1][x] if y else 0
            left = codes[y][x - 1] if x else 0
            corner = codes[y - 1][x - 1] if x and y else 0
            codes[y][x] = (delta + up + left - corner) % 65536
    values = [[offset + (code - 1) * step if code else 0.0 for code in row] for row in codes]
    return values, [[code > 0 for code in row] for row in codes]


@settings(deadline=None)
@given(data=st.data(), shape=SHAPES)
def test_dz16__comes_back_within_half_a_step(data: st.DataObject, shape: tuple[int, int]) -> None:
    disparity = data.draw(arrays.arrays(np.float32, shape, elements=VALUES))
    valid = data.draw(arrays.arrays(np.bool_, shape))
    decoded, decoded_valid = decode_dz16(encode_dz16(disparity, valid))
    np.testing.assert_array_equal(decoded_valid, valid)
    assert decoded.dtype == np.float32 and (decoded[~valid] == 0).all()
    if valid.any():
        kept = disparity[valid].astype(np.float64)
        step = (kept.max() - kept.min()) / 65534
        rounding = 4 * np.spacing(np.float32(kept.max()))  # float32 in, float32 out
        assert np.abs(decoded[valid] - kept).max() <= 0.505 * step + rounding
        assert decoded[valid].min() == kept.min()


@settings(deadline=None)
@given(codes=arrays.arrays(np.uint16, SHAPES, elements=st.integers(0, 65534)), offset=st.sampled_from([0.0, 1.0, 77.0]))
def test_dz16__values_on_its_grid_come_back_exactly(codes: NDArray[np.uint16], offset: float) -> None:
    codes = np.pad(codes, ((0, 0), (0, 2)), constant_values=(0, 0))
    codes[0, -2:] = 0, 65534
    disparity = codes.astype(np.float32) + np.float32(offset)
    decoded, _ = decode_dz16(encode_dz16(disparity, np.ones(codes.shape, bool)))
    np.testing.assert_array_equal(decoded, disparity)


def test_dz16__matches_the_format_read_number_by_number() -> None:
    disparity = smooth(9, 13)
    valid = np.random.default_rng(0).random((9, 13)) > 0.3
    data = encode_dz16(disparity, valid)
    values, expected_valid = slow_decode(data)
    decoded, decoded_valid = decode_dz16(data)
    np.testing.assert_allclose(decoded, values, rtol=1e-6)
    np.testing.assert_array_equal(decoded_valid, expected_valid)


def test_dz16__sky_stays_exactly_zero_and_valid() -> None:
    disparity = smooth() + 0.3
    disparity[:20] = 0
    decoded, valid = decode_dz16(encode_dz16(disparity, np.ones_like(disparity, bool)))
    assert valid.all()
    np.testing.assert_array_equal(decoded == 0, disparity == 0)


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.25, 3e38])
def test_dz16__constant_maps_are_exact(value: float) -> None:
    disparity = np.full((5, 7), value, np.float32)
    decoded, valid = decode_dz16(encode_dz16(disparity, np.ones((5, 7), bool)))
    np.testing.assert_array_equal(decoded, disparity)
    assert valid.all()


def test_dz16__all_invalid_maps_and_single_pixels_work() -> None:
    decoded, valid = decode_dz16(encode_dz16(np.full((3, 4), np.nan, np.float32), np.zeros((3, 4), bool)))
    assert not valid.any() and (decoded == 0).all()
    decoded, valid = decode_dz16(encode_dz16(np.full((1, 1), 2.5, np.float32), np.ones((1, 1), bool)))
    assert decoded.tolist() == [[2.5]] and valid.all()


def test_dz16__negative_and_not_finite_values_become_invalid() -> None:
    disparity = np.array([[-1.0, np.nan, np.inf, -np.inf, 0.0, 1.0]], np.float32)
    _, valid = decode_dz16(encode_dz16(disparity, np.ones((1, 6), bool)))
    assert valid.tolist() == [[False, False, False, False, True, True]]


def test_dz16__equal_maps_give_equal_bytes() -> None:
    assert encode_dz16(smooth(), smooth() > 0.1) == encode_dz16(smooth(), smooth() > 0.1)


def test_dz16__every_flipped_bit_is_found() -> None:
    data = encode_dz16(smooth(12, 16), smooth(12, 16) > 0.2)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadSample) as caught:
            decode_dz16(bytes(flipped))
        assert caught.value.reason == "damaged_label"


def test_dz16__a_thousand_random_flips_in_a_large_map_are_found() -> None:
    data = encode_dz16(smooth(518, 686), np.ones((518, 686), bool))
    rng = np.random.default_rng(0)
    found = 0
    for bit in rng.integers(0, 8 * len(data), 1000).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode_dz16(bytes(flipped))
        except BadSample:
            found += 1
    assert found == 1000


def test_dz16__every_cut_is_found() -> None:
    data = encode_dz16(smooth(12, 16), np.ones((12, 16), bool))
    for length in range(len(data)):
        with pytest.raises(BadSample):
            decode_dz16(data[:length])
    with pytest.raises(BadSample):
        decode_dz16(data + b"\0")


@pytest.mark.parametrize("content", [struct.pack("<IIff", 2**31, 2**31, 0, 1), bytes(3), b""])
def test_dz16__a_lying_header_with_a_true_checksum_is_refused(content: bytes) -> None:
    import xxhash

    frame = zstandard.ZstdCompressor().compress(content)
    with pytest.raises(BadSample):
        decode_dz16(struct.pack("<Q", xxhash.xxh3_64_intdigest(frame)) + frame)


def test_dz16__is_smaller_than_png() -> None:
    disparity = smooth(300, 400)
    codes = np.round(disparity / disparity.max() * 65535).astype(np.uint16)
    png = cv2.imencode(".png", codes, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    assert len(encode_dz16(disparity, np.ones_like(disparity, bool))) < 0.7 * len(png)


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


def test_decode_label__depth_too_small_to_invert_is_invalid() -> None:
    disparity, valid = decode_label("depth.npy", npy(np.array([[1e-44, 1.0]], np.float32)), {"scale": 1})
    assert valid.tolist() == [[False, True]] and disparity.tolist() == [[0, 1]]


def test_decode_label__dz16_depth_is_inverted_and_needs_no_scale() -> None:
    depth_m = np.array([[1.0, 2.0, 4.0]], np.float32)
    disparity, valid = decode_label("depth.dz16", encode_dz16(depth_m, np.ones((1, 3), bool)), {})
    np.testing.assert_allclose(disparity, [[1, 0.5, 0.25]], rtol=1e-4)
    assert valid.all()


@pytest.mark.parametrize("scale", [None, 0, -1, float("inf"), float("nan"), "1000"])
def test_decode_label__a_missing_or_senseless_scale_is_named(scale: Any) -> None:
    with pytest.raises(BadSample, match="scale") as caught:
        decode_label("depth.png", png16(np.ones((2, 2), np.uint16)), {"scale": scale})
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


def test_decode_label__cut_files_are_found() -> None:
    for extension, data in (("depth.png", png16(np.ones((9, 9), np.uint16))), ("depth.npy", npy(smooth(9, 9)))):
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
        (mask(np.ones((6, 8), bool))[:-5], "truncated_image"),
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
