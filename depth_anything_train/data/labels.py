"""Label codecs: bytes to (disparity, valid) and back.

disparity (H, W) float32 is inverse depth, larger is nearer, >= 0; valid (H, W) bool is True where it may be used.
Exactly 0 and valid is the farthest there is (sky). Where valid is False disparity is 0.

| codec  | holds                                             | invalid                                        |
|--------|---------------------------------------------------|------------------------------------------------|
| `png`  | 16-bit grey, physical = stored / json["scale"]    | 0, and json["invalid"] if given                |
| `npy`  | float32 (H, W), physical = stored / json["scale"] | not finite, <= 0, and json["invalid"] if given |
| `dz16` | our codec for pseudo labels and renderings        | code 0                                         |

A dz16 label is an xxh3 checksum and a zstd frame; in the frame H, W, offset, step and the two byte planes of the
zigzagged 2-D differences of uint16 codes: 0 is invalid, code c >= 1 stands for offset + (c - 1) * step.
The checksum is our own because the one inside a zstd frame does not cover the frame's header.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import xxhash
import zstandard
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from depth_anything_train.data.images import MAX_PIXELS, decode_image, read_header
from depth_anything_train.data.schema import CLASSES, BadSample, Record

Label = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""(disparity, valid), both (H, W)."""

ASPECT_TOLERANCE = 0.02
"""Width / height of label and image may differ by this share, or by a pixel: small labels are rounded."""

_CHECKSUM = struct.Struct("<Q")
_HEADER = struct.Struct("<IIff")  # height, width, offset, step
_LAST_CODE = 65535
_SMALLEST_STEP = float(np.finfo(np.float32).tiny)
_STRIP_PIXELS = 2**16


def decode_label(extension: str, data: bytes, meta: dict[str, Any]) -> Label:
    """Decode any label member.

    Args:
        extension: QUANTITY.CODEC, such as `depth.png`.
        data: the member's bytes.
        meta: the sample's json; `scale` is needed by png and npy, `invalid` is optional.

    Raises:
        BadSample: `label_type`, `label_meta`, `damaged_label`, or an image reason for a bad png.
    """
    quantity, _, codec = extension.partition(".")
    if codec == "dz16":
        stored, valid = decode_dz16(data)
    elif codec in ("png", "npy"):
        stored, valid = _physical(read_png16(data) if codec == "png" else read_npy(data), meta)
    else:
        raise BadSample("label_type", f"Expected a label of type png, npy or dz16, but came {extension!r}.")
    return (_inverse(stored, valid), valid) if quantity == "depth" else (stored, valid)


def decode_pair(record: Record) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Decode an image, RGB (H, W, 3), and its label at the label's own size: disparity (h, w) and valid (h, w).

    Raises:
        BadSample: as `decode_label` and `images.decode_image`, `missing_label`, or `label_size`.
    """
    disparity, valid = decode_label(*record.label(), record.meta)
    image = decode_image(record.image)
    check_shape(image.shape, disparity.shape)
    return image, disparity, valid


def check_shape(image: tuple[int, ...], label: tuple[int, ...]) -> None:
    """Compare the sizes (height, width) of an image and its label: they may differ, their shape may not.

    Raises:
        BadSample: `label_size`.
    """
    expected = label[0] * image[1] / image[0]  # width of the label
    if abs(label[1] - expected) > max(ASPECT_TOLERANCE * expected, 1):
        sizes = f"{label[1]} x {label[0]}, its image {image[1]} x {image[0]}"
        raise BadSample("label_size", f"The label is {sizes} pixels; expected the same width / height.")


def decode_sky(data: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a sky mask and bring it to the size (H, W) of the label by the nearest pixel.

    Raises:
        BadSample: `label_type` if it is no 8-bit grey PNG, `damaged_label`, or as `images.read_header`.
    """
    stored = read_grey_png(data, bits=8, what="sky mask")
    if stored.shape != shape:
        stored = cv2.resize(stored, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return stored != 0


def decode_classes(record: Record, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The class of every pixel of an image of that shape, (h, w), `NO_CLASS` where there is none.

    Raises:
        BadSample: `missing_label` if the sample holds no classes, `label_type` if they are no 8-bit grey PNG,
            `damaged_label`, `label_size`, or as `images.read_header`.
    """
    if CLASSES not in record.members:
        raise BadSample("missing_label", f"Sample {record.key} has no {CLASSES}, only {sorted(record.members)}.")
    classes = read_grey_png(record.members[CLASSES], bits=8, what="map of classes")
    check_shape(shape, classes.shape)
    return classes


def add_sky(label: Label, sky: NDArray[np.bool_]) -> Label:
    """The label with the sky as the farthest there is, disparity 0, where nothing is labelled (V1 section 3.1).

    A label without a valid pixel stays so: sky alone teaches nothing. To be called before `sources.normalise`, or
    the farthest labelled thing would be as far as the sky.
    """
    disparity, valid = label
    if not valid.any():
        return label
    return disparity, valid | sky  # disparity is 0 already where nothing is valid


def _physical(stored: NDArray[Any], meta: dict[str, Any]) -> Label:
    scale, invalid = meta.get("scale"), meta.get("invalid")
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise BadSample("label_meta", f"Expected a scale > 0 in the json of a png or npy label, but came {scale!r}.")
    valid = (stored > 0) & np.isfinite(stored)
    if invalid is not None:
        valid &= stored != invalid
    values = np.where(valid, stored, 0).astype(np.float32)
    values /= np.float32(scale)
    return values, valid


def _inverse(depth_m: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 / depth where valid; a depth so small that its inverse overflows is made invalid in place."""
    with np.errstate(over="ignore"):
        disparity = np.divide(1.0, depth_m, out=np.zeros_like(depth_m), where=valid & (depth_m > 0))
    valid &= np.isfinite(disparity) & (disparity > 0)
    disparity[~valid] = 0
    return disparity


def read_png16(data: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit grey PNG, (H, W).

    Raises:
        BadSample: `label_type` if it is another kind of image, else as `images.read_header`; `damaged_label`.
    """
    return read_grey_png(data, bits=16, what="label")


def read_grey_png(data: bytes, *, bits: int, what: str) -> NDArray[Any]:
    """Decode a grey PNG of 8 or 16 bits, (H, W); `what` it is for the message.

    Raises:
        BadSample: as `read_png16`.
    """
    header = read_header(data)
    if header.extension != "png" or data[24:26] != bytes((bits, 0)):  # bit depth, colour type grey
        kind = f"a PNG of {data[24]} bits, colour type {data[25]}" if header.extension == "png" else header.extension
        raise BadSample("label_type", f"Expected a {bits}-bit greyscale PNG as {what}, but came {kind}.")
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise BadSample("damaged_label", f"The PNG {what} cannot be decoded; it is damaged.")
    return stored


def read_npy(data: bytes) -> NDArray[Any]:
    """Read a 2-D array of real numbers from .npy bytes, without pickle and without trusting the shape in its header.

    Raises:
        BadSample: `label_type` if it is something else, `damaged_label` if bytes are missing or too many.
    """
    file = io.BytesIO(data)
    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except (ValueError, KeyError, SyntaxError, TypeError, EOFError) as error:
        raise BadSample("label_type", f"Expected a .npy array as label, but its header is bad: {error}.") from None
    if dtype.kind not in "fiu" or len(shape) != 2 or 0 in shape or shape[0] * shape[1] > MAX_PIXELS:
        raise BadSample("label_type", f"Expected a 2-D array of numbers as label, but came {dtype} of shape {shape}.")
    if len(data) - file.tell() != shape[0] * shape[1] * dtype.itemsize:
        raise BadSample("damaged_label", f"The .npy label of shape {shape} has a wrong number of bytes; it is cut off.")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran_order else "C")


def encode_dz16(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> bytes:
    """Encode a disparity map: 65535 equal steps from its smallest to its largest valid value.

    The smallest valid value, and so sky at 0, comes back exactly; others within half a step (range / 131068) and
    float32 rounding. A constant or all-invalid map works. Negative and not finite values become invalid.

    Args:
        disparity: (H, W) float32, larger is nearer.
        valid: (H, W) bool.
    """
    disparity = np.asarray(disparity, np.float32)
    assert disparity.ndim == 2 and disparity.shape == valid.shape, f"{disparity.shape}, {valid.shape}"
    valid = valid & (disparity >= 0) & (disparity < np.inf)
    kept = disparity if valid.all() else disparity[valid]
    offset, largest = (kept.min(), kept.max()) if kept.size else (np.float32(0), np.float32(0))
    step = np.float32((float(largest) - float(offset)) / (_LAST_CODE - 1))
    if step < _SMALLEST_STEP:
        step = np.float32(1)  # constant: any step will do
    content = bytearray(_HEADER.size + 2 * disparity.size)
    _HEADER.pack_into(content, 0, *disparity.shape, offset, step)
    planes = np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(2, *disparity.shape)
    above = np.zeros(disparity.shape[1], np.uint16)
    for strip in _strips(disparity.shape):
        codes = _quantise(disparity[strip], valid[strip], offset, step)
        _pack(codes, above, planes[:, strip])
        above = codes[-1]
    frame = zstandard.ZstdCompressor(level=1).compress(content)
    return _CHECKSUM.pack(xxhash.xxh3_64_intdigest(frame)) + frame


def decode_dz16(data: bytes) -> Label:
    """Decode `encode_dz16`; every flipped bit and every cut raises.

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
    above = np.zeros(width, np.uint16)
    for strip in _strips((height, width)):
        codes = _unpack(planes[:, strip], above)
        np.not_equal(codes, 0, out=valid[strip])
        part = disparity[strip]
        part[:] = codes
        part -= 1
        part *= np.float32(step)
        part += np.float32(offset)
        above = codes[-1]
    if not valid.all():
        disparity[~valid] = 0
    return disparity, valid


def _decompress(frame: bytes) -> bytes:
    try:
        size = zstandard.frame_content_size(frame)
        if not _HEADER.size <= size <= _HEADER.size + 2 * MAX_PIXELS:
            raise BadSample("damaged_label", f"The dz16 label would unpack to {size:,} bytes, which no label has.")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise BadSample("damaged_label", f"The dz16 label cannot be unpacked: {error}.") from None


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows to be worked on together: temporaries that fit the processor's cache, and need no new pages, cost half."""
    rows = max(_STRIP_PIXELS // max(shape[1], 1), 1)
    return (slice(top, top + rows) for top in range(0, shape[0], rows))


def _quantise(
    disparity: NDArray[np.float32], valid: NDArray[np.bool_], offset: np.float32, step: np.float32
) -> NDArray[np.uint16]:
    all_valid = bool(valid.all())
    steps = (disparity if all_valid else np.where(valid, disparity, offset)) - offset
    steps /= step  # at most 65534.02, because offset and step are rounded
    codes = np.rint(steps, out=steps).astype(np.uint16)
    codes += 1
    if not all_valid:
        codes[~valid] = 0
    return codes


def _pack(codes: NDArray[np.uint16], above: NDArray[np.uint16], planes: NDArray[np.uint8]) -> None:
    """Codes below a row to the low and the high bytes of their zigzagged 2-D differences, all modulo 2^16."""
    rows, deltas = np.empty_like(codes), np.empty_like(codes)
    np.subtract(codes[1:], codes[:-1], out=rows[1:])
    np.subtract(codes[0], above, out=rows[0])
    np.subtract(rows[:, 1:], rows[:, :-1], out=deltas[:, 1:])
    deltas[:, 0] = rows[:, 0]
    signed = deltas.view(np.int16)
    zigzag = signed << 1  # a small difference of either sign has a high byte of 0
    zigzag ^= signed >> 15
    unsigned = zigzag.view(np.uint16)
    np.copyto(planes[0], unsigned, casting="unsafe")
    unsigned >>= 8
    np.copyto(planes[1], unsigned, casting="unsafe")


def _unpack(planes: NDArray[np.uint8], above: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """What `_pack` packed: byte by byte, because OpenCV sums bytes along both axes at once and very fast."""
    low, high = planes
    sign = low & 1
    np.negative(sign, out=sign)
    low, high = ((high << 7) | (low >> 1)) ^ sign, (high >> 1) ^ sign
    codes = cv2.integral(high)[1:, 1:].astype(np.uint16)
    codes <<= 8
    codes += cv2.integral(low)[1:, 1:].astype(np.uint16)
    codes += above
    return codes
