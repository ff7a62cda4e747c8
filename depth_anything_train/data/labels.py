"""Labels as shards hold them: bytes to (disparity, valid), sky and classes.

disparity (H, W) float32 is inverse depth, larger is nearer, >= 0; valid (H, W) bool is True where it may be used.
Exactly 0 and valid is the farthest there is (sky). Where valid is False disparity is 0.

| codec  | holds                         | invalid                                        |
|--------|-------------------------------|------------------------------------------------|
| `png`  | 16-bit grey                   | 0, and json["invalid"] if given                |
| `npy`  | float32 (H, W)                | not finite, <= 0, and json["invalid"] if given |
| `dz16` | our 16-bit codec; see `dz16`  | code 0                                         |

physical = stored / json["scale"]; dz16 alone may do without a scale, which is then 1.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import cv2
import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from depth_anything_train.data.dz16 import decode_dz16
from depth_anything_train.data.images import MAX_PIXELS, ImageHeader, decode_image, read_header
from depth_anything_train.data.schema import CLASSES, BadSample, Encoded, Label, Record

ASPECT_TOLERANCE = 0.02
"""Width / height of label and image may differ by this share, or by a pixel: small labels are rounded."""


def decode_label(extension: str, data: Encoded, meta: dict[str, Any]) -> Label:
    """Decode any label member.

    Args:
        extension: QUANTITY.CODEC, such as `depth.png`.
        data: the member's bytes.
        meta: the sample's json; `scale` is needed by png and npy, `invalid` is optional.

    Raises:
        BadSample: `label_type`, `label_meta` or `damaged_label`.
    """
    quantity, _, codec = extension.partition(".")
    if codec == "dz16":
        stored, valid = decode_dz16(data, 1 if meta.get("scale") is None else _scale(meta))
    elif codec in ("png", "npy"):
        stored, valid = _physical(read_png16(data) if codec == "png" else read_npy(data), meta)
    else:
        raise BadSample("label_type", f"Expected a label of type png, npy or dz16, but got {extension!r}.")
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


def decode_sky(data: Encoded, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a sky mask and bring it to the size (H, W) of the label by the nearest pixel.

    Raises:
        BadSample: `label_type` if it is no 8-bit grey PNG, or `damaged_label`.
    """
    stored = read_grey_png(data, bits=8, what="sky mask")
    if stored.shape != shape:
        stored = cv2.resize(stored, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return stored != 0


def decode_classes(record: Record, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The class of every pixel of an image of that shape, (h, w), `NO_CLASS` where there is none.

    Raises:
        BadSample: `missing_label` if the sample holds no classes, `label_type` if they are no 8-bit grey PNG,
            `damaged_label` or `label_size`.
    """
    if CLASSES not in record.members:
        raise BadSample("missing_label", f"Sample {record.key} has no {CLASSES}, only {sorted(record.members)}.")
    classes = read_grey_png(record.members[CLASSES], bits=8, what="map of classes")
    check_shape(shape, classes.shape)
    return classes


def add_sky(label: Label, sky: NDArray[np.bool_]) -> Label:
    """The label with the sky as the farthest there is, disparity 0, where nothing is labelled (V1 section 3.1).

    A label without a valid pixel stays so: sky alone teaches nothing. To be called before `to_unit_range`, or the
    farthest labelled thing would be as far as the sky.
    """
    disparity, valid = label
    if not valid.any():
        return label
    return disparity, valid | sky  # disparity is 0 already where nothing is valid


def to_unit_range(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Stretch the valid disparities of one map to 0 to 1 (section 3.1); a constant map becomes 0, and so does invalid.

    The loss removes scale and shift again, so this only keeps numbers of metres and pixels in one range.

    Raises:
        BadSample: `no_valid_pixel`.
    """
    if not valid.any():
        raise BadSample("no_valid_pixel", "No pixel of the label is valid.")
    complete = valid.all()
    smallest, largest = map(np.float32, cv2.minMaxLoc(disparity, None if complete else valid.view(np.uint8))[:2])
    stretched = disparity - smallest
    stretched /= largest - smallest if largest > smallest else np.float32(1)
    if not complete:
        stretched[~valid] = 0
    return stretched


def _physical(stored: NDArray[Any], meta: dict[str, Any]) -> Label:
    scale, invalid = _scale(meta), meta.get("invalid")
    if not isinstance(invalid, int | float | None):
        raise BadSample("label_meta", f"Expected a number as invalid in the json of a label, but got {invalid!r}.")
    with np.errstate(all="ignore"):
        values = stored.astype(np.float32)
        values /= np.float32(scale)
    valid = (values > 0) & np.isfinite(values)  # after the division, which may leave what float32 can hold
    if invalid is not None:
        valid &= stored != invalid
    values[~valid] = 0
    return values, valid


def _scale(meta: dict[str, Any]) -> float:
    """What the stored numbers are to be divided by."""
    scale = meta.get("scale")
    if not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
        raise BadSample("label_meta", f"Expected a scale > 0 in the json of a label, but got {scale!r}.")
    return scale


def _inverse(depth_m: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 / depth where valid; a depth so small that its inverse overflows is made invalid in place."""
    with np.errstate(over="ignore"):
        disparity = np.divide(1.0, depth_m, out=np.zeros_like(depth_m), where=valid & (depth_m > 0))
    valid &= np.isfinite(disparity) & (disparity > 0)
    disparity[~valid] = 0
    return disparity


def read_png16(data: Encoded) -> NDArray[np.uint16]:
    """Decode a 16-bit grey PNG, (H, W).

    Raises:
        BadSample: `label_type` if it is another kind of image, `damaged_label` if it is none or damaged.
    """
    return read_grey_png(data, bits=16, what="label")


def read_grey_png(data: Encoded, *, bits: int, what: str) -> NDArray[Any]:
    """Decode a grey PNG of 8 or 16 bits, (H, W); `what` is a noun for the message.

    Raises:
        BadSample: as `read_png16`.
    """
    extension = label_header(data, what=what).extension
    if extension != "png" or data[24:26] != bytes((bits, 0)):  # bit depth, colour type grey
        kind = f"a PNG of {data[24]} bits, colour type {data[25]}" if extension == "png" else extension
        raise BadSample("label_type", f"Expected a {bits}-bit greyscale PNG as {what}, but got {kind}.")
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise BadSample("damaged_label", f"The PNG {what} cannot be decoded; it is damaged.")
    return stored


def label_header(data: Encoded, *, what: str) -> ImageHeader:
    """`images.read_header` of a label in the form of an image; `what` is a noun for the message.

    Raises:
        BadSample: `damaged_label`.
    """
    try:
        return read_header(data)
    except BadSample as error:  # which calls it an image
        raise BadSample("damaged_label", f"The file of the {what} is no sound PNG: {error}") from None


def read_npy(data: Encoded) -> NDArray[Any]:
    """Read a 2-D array of real numbers from .npy bytes, without pickle and without trusting the shape in its header.

    Raises:
        BadSample: `label_type` if it is something else, `damaged_label` if bytes are missing or too many.
    """
    file = io.BytesIO(data)
    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except Exception as error:  # NumPy parses the header as Python: damage shows as almost any error
        raise BadSample("label_type", f"Expected a .npy array as label, but its header is bad: {error}.") from None
    if dtype.kind not in "fiu" or len(shape) != 2 or 0 in shape or shape[0] * shape[1] > MAX_PIXELS:
        raise BadSample("label_type", f"Expected a 2-D array of numbers as label, but got {dtype} of shape {shape}.")
    if len(data) - file.tell() != shape[0] * shape[1] * dtype.itemsize:
        raise BadSample("damaged_label", f"The .npy label of shape {shape} has a wrong number of bytes; it is cut off.")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran_order else "C")
