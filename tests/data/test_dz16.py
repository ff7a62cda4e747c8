from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from depth_anything_train.data import dz16
from depth_anything_train.data.dz16 import decode_dz16, encode_dz16
from depth_anything_train.data.schema import BadSample

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
VALUES = st.floats(0, 1e6, width=32)


def smooth(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8 + 2, width // 8 + 2), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


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
        if step < np.finfo(np.float32).tiny:  # no such step can be stored: the map counts as constant
            rounding = kept.max() - kept.min()
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


def test_dz16__a_range_too_small_for_a_step_counts_as_constant() -> None:
    disparity = np.array([[1e-38, 0, 7e-34]], np.float32)
    decoded, valid = decode_dz16(encode_dz16(disparity, np.ones((1, 3), bool)))
    assert valid.all() and (decoded == 0).all()


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


@pytest.mark.parametrize("pixels", [1, 50, 200])
def test_dz16__rows_worked_on_together_change_nothing(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    rng = np.random.default_rng(0)
    disparity, valid = rng.random((13, 17), np.float32), rng.random((13, 17)) > 0.1
    whole = encode_dz16(disparity, valid)
    monkeypatch.setattr(dz16, "_ENCODED_PIXELS", pixels)
    monkeypatch.setattr(dz16, "_DECODED_PIXELS", pixels)
    monkeypatch.setattr(dz16, "_kept", dz16._Kept())  # of that size: a row may not fit
    assert encode_dz16(disparity, valid) == whole
    np.testing.assert_array_equal(decode_dz16(whole)[1], valid)


def test_dz16__neither_maps_encoded_before_nor_other_threads_change_a_byte() -> None:
    rng = np.random.default_rng(0)
    shapes = [(40, 30), (7, 300), (1, 1), (200, 100), (40, 30)] * 8
    maps = [(rng.random(shape, np.float32), rng.random(shape) > 0.1) for shape in shapes]
    fresh = []
    for one in maps:  # each in a thread that has encoded nothing before
        with ThreadPoolExecutor(1) as alone:
            fresh.append(alone.submit(encode_dz16, *one).result())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode_dz16, *zip(*maps, strict=True))) == fresh


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

    frame = zstandard.ZstdCompressor().compress(content)
    with pytest.raises(BadSample):
        decode_dz16(struct.pack("<Q", xxhash.xxh3_64_intdigest(frame)) + frame)


def test_dz16__is_smaller_than_png() -> None:
    disparity = smooth(300, 400)
    codes = np.round(disparity / disparity.max() * 65535).astype(np.uint16)
    png = cv2.imencode(".png", codes, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    assert len(encode_dz16(disparity, np.ones_like(disparity, bool))) < 0.7 * len(png)
