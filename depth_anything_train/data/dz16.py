"""The dz16 codec: a map in 16 bits, compressed without loss. For pseudo labels, renderings, and in place of 16-bit PNG.

A dz16 label is an xxh3 checksum and a zstd frame; in the frame H, W, offset, step and the two byte planes of the
zigzagged 2-D differences of uint16 codes: 0 is invalid, code c >= 1 stands for offset + (c - 1) * step.
The checksum is our own because the one inside a zstd frame does not cover the frame's header.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from depth_anything_train.data.images import MAX_PIXELS
from depth_anything_train.data.schema import BadSample, Encoded, Label

_CHECKSUM = struct.Struct("<Q")
_HEADER = struct.Struct("<IIff")  # height, width, offset, step
_LAST_CODE = 65535
_INVALID = 65535  # code 0 less 1: a sum that starts there, modulo 2^16, gives all codes less 1
_SMALLEST_STEP = float(np.finfo(np.float32).tiny)
_DECODED_PIXELS = 2**16
"""Worked on together. What fits the processor's cache, and needs no new pages, costs half."""

_ENCODED_PIXELS = 2**19
"""Many threads of a process encode at once, and for each operation they wait for the interpreter: so fewer larger ones,
in memory that each thread keeps."""


def encode_dz16(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> bytes:
    """Encode a disparity map: 65535 equal steps from its smallest to its largest valid value.

    The smallest valid value, and so sky at 0, comes back exactly; others within half a step (range / 131068) and
    float32 rounding. A constant or all-invalid map works, and a range below 7.7e-34, for which no step can be stored,
    counts as constant. Negative and not finite values become invalid.

    Args:
        disparity: (H, W) float32, larger is nearer.
        valid: (H, W) bool.
    """
    disparity = np.asarray(disparity, np.float32)
    assert disparity.ndim == 2 and disparity.shape == valid.shape, f"{disparity.shape}, {valid.shape}"
    offset, largest = disparity.min(), disparity.max()  # NaN if any value is
    if not (offset >= 0 and largest < np.inf and valid.all()):
        valid = valid & (disparity >= 0) & (disparity < np.inf)
        kept = disparity[valid] if valid.any() else np.zeros(1, np.float32)
        offset, largest = kept.min(), kept.max()
    step = np.float32((float(largest) - float(offset)) / (_LAST_CODE - 1))
    if step < _SMALLEST_STEP:
        step = np.float32(1)  # constant: any step will do
    content, planes = _new_content(disparity.shape, float(offset), float(step))
    above = np.zeros(disparity.shape[1], np.uint16)
    for strip in _strips(disparity.shape, _ENCODED_PIXELS):
        steps, (codes, *temporaries) = _kept.steps_and_codes(disparity[strip].shape)
        _quantise(disparity[strip], valid[strip], offset, step, steps, codes)
        _pack(codes, above, planes[:, strip], *temporaries)
        above = codes[-1].copy()
    return _compress(content)


def encode_codes(codes: NDArray[np.uint16]) -> bytes:
    """Encode the codes of a 16-bit PNG as they are: `decode_dz16` returns them as float32, and 0 as invalid.

    Args:
        codes: (H, W) uint16.
    """
    content, planes = _new_content(codes.shape, offset=1, step=1)
    _pack(codes, np.zeros(codes.shape[1], np.uint16), planes, *np.empty((2, *codes.shape), np.uint16))
    return _compress(content)


def decode_dz16(data: Encoded, scale: float = 1) -> Label:
    """Decode `encode_dz16`; every flipped bit and every cut raises.

    Args:
        data: the label's bytes.
        scale: what the values are divided by, while they are at hand; what then is not finite is invalid.

    Raises:
        BadSample: `damaged_label`.
    """
    frame = data[_CHECKSUM.size :]
    if len(data) <= _CHECKSUM.size or _CHECKSUM.unpack_from(data)[0] != xxhash.xxh3_64_intdigest(frame):
        raise BadSample("damaged_label", "The dz16 label does not agree with its checksum; it was changed or cut.")
    content = _decompress(frame)
    height, width, offset, step = _HEADER.unpack_from(content)
    if len(content) != _HEADER.size + 2 * height * width:
        raise BadSample("damaged_label", f"The dz16 label of {width} x {height} pixels holds {len(content)} bytes.")
    planes = np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(2, height, width)
    disparity, valid = np.empty((height, width), np.float32), np.empty((height, width), bool)
    above = np.full(width, _INVALID, np.uint16)
    with np.errstate(all="ignore"):
        for strip in _strips((height, width), _DECODED_PIXELS):
            steps = _unpack(planes[:, strip], above)
            np.not_equal(steps, _INVALID, out=valid[strip])
            np.copyto(disparity[strip], steps)
            _to_values(disparity[strip], offset, step, scale)
            above = steps[-1]
        if not np.isfinite(_to_values(np.array([0, _LAST_CODE - 1], np.float32), offset, step, scale)).all():
            valid &= np.isfinite(disparity)
    if not valid.all():
        disparity[~valid] = 0
    return disparity, valid


def _to_values(steps: NDArray[np.float32], offset: float, step: float, scale: float) -> NDArray[np.float32]:
    """Numbers of steps to what they stand for, in place."""
    steps *= np.float32(step)
    steps += np.float32(offset)
    if scale != 1:
        steps /= np.float32(scale)
    return steps


def _new_content(shape: tuple[int, ...], offset: float, step: float) -> tuple[memoryview, NDArray[np.uint8]]:
    """What is to be compressed: its header is written, and its planes, (2, H, W), are views to be filled."""
    height, width = shape
    content = _room(_kept.content, _HEADER.size + 2 * height * width).data
    _HEADER.pack_into(content, 0, height, width, offset, step)
    return content, np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(2, height, width)


def _compress(content: memoryview) -> bytes:
    frame = _kept.compressor.compress(content)
    return _CHECKSUM.pack(xxhash.xxh3_64_intdigest(frame)) + frame


def _decompress(frame: Encoded) -> bytes:
    try:
        size = zstandard.frame_content_size(frame)
        if not _HEADER.size <= size <= _HEADER.size + 2 * MAX_PIXELS:
            raise BadSample("damaged_label", f"The dz16 label would unpack to {size:,} bytes, which no label has.")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise BadSample("damaged_label", f"The dz16 label cannot be unpacked: {error}.") from None


def _strips(shape: tuple[int, ...], pixels: int) -> Iterator[slice]:
    """Rows to be worked on together."""
    rows = max(pixels // max(shape[1], 1), 1)
    return (slice(top, top + rows) for top in range(0, shape[0], rows))


class _Kept(threading.local):
    """Memory for what a thread encodes: to get it anew for each map takes longer than to fill it."""

    def __init__(self) -> None:
        self.content = np.empty(_HEADER.size + 2 * _ENCODED_PIXELS, np.uint8)
        self.steps, self.codes = np.empty(_ENCODED_PIXELS, np.float32), np.empty((3, _ENCODED_PIXELS), np.uint16)
        self.compressor = zstandard.ZstdCompressor(level=1)

    def steps_and_codes(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """(H, W) float32 and (3, H, W) uint16, filled with anything."""
        size = shape[0] * shape[1]
        return _room(self.steps, size).reshape(shape), _room(self.codes, size).reshape(3, *shape)


def _room(kept: NDArray[Any], size: int) -> NDArray[Any]:
    """The first `size` of each row; of new memory where so much is not kept."""
    return kept[..., :size] if size <= kept.shape[-1] else np.empty((*kept.shape[:-1], size), kept.dtype)


_kept = _Kept()


def _quantise(
    disparity: NDArray[np.float32],
    valid: NDArray[np.bool_],
    offset: np.float32,
    step: np.float32,
    steps: NDArray[np.float32],
    codes: NDArray[np.uint16],
) -> None:
    """Write the codes of a map; `steps` is overwritten on the way."""
    all_valid = bool(valid.all())
    np.subtract(disparity if all_valid else np.where(valid, disparity, offset), offset, out=steps)
    steps /= step  # at most 65534.02, because offset and step are rounded
    np.rint(steps, out=steps)
    np.copyto(codes, steps, casting="unsafe")
    codes += 1
    if not all_valid:
        codes[~valid] = 0


def _pack(
    codes: NDArray[np.uint16],
    above: NDArray[np.uint16],
    planes: NDArray[np.uint8],
    rows: NDArray[np.uint16],
    deltas: NDArray[np.uint16],
) -> None:
    """Codes below a row to the low and the high bytes of their zigzagged 2-D differences, all modulo 2^16.

    The bytes are written to `planes`; `rows` and `deltas` are overwritten on the way.
    """
    np.subtract(codes[1:], codes[:-1], out=rows[1:])
    np.subtract(codes[0], above, out=rows[0])
    np.subtract(rows[:, 1:], rows[:, :-1], out=deltas[:, 1:])
    deltas[:, 0] = rows[:, 0]
    signed, zigzag = deltas.view(np.int16), rows.view(np.int16)
    np.add(signed, signed, out=zigzag)  # a small difference of either sign has a high byte of 0
    signed >>= 15
    zigzag ^= signed
    np.copyto(planes[0], rows, casting="unsafe")
    rows >>= 8
    np.copyto(planes[1], rows, casting="unsafe")


def _unpack(planes: NDArray[np.uint8], above: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """What `_pack` packed, plus `above`, modulo 2^16: byte by byte, as OpenCV sums bytes along both axes and very fast.

    To multiply is to shift to the left, but eight times as fast: NumPy's shift looks at how far it is to go.
    """
    low, high = planes
    sign = low & 1
    np.negative(sign, out=sign)
    low, high = ((high * np.uint8(128)) | (low >> 1)) ^ sign, (high >> 1) ^ sign
    codes = cv2.integral(high)[1:, 1:].astype(np.uint16)
    codes *= 256
    codes += cv2.integral(low)[1:, 1:].astype(np.uint16)
    codes += above
    return codes
