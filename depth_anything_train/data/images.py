"""Encoded photographs to RGB. Input is never trusted: type and size are read from the header before decoding."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import BadSample, Encoded

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header alone: they are bombs or scans, and no training image needs them."""

MAX_NETWORK_PIXELS = 2**24
"""Of one image for a network: a strip of 1 x 10000 pixels must end in a sentence, not in 5 million columns."""

_JPEG_START, _JPEG_END, _PNG_MAGIC = b"\xff\xd8\xff", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_PNG_LAST_CHUNK = b"IEND\xaeB`\x82"

_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}


class ImageHeader(NamedTuple):
    """What an image says about itself; height and width in pixels, before the EXIF orientation is applied."""

    extension: str
    height: int
    width: int


def decode_image(data: Encoded, *, reduce_to: int | None = None) -> NDArray[np.uint8]:
    """Decode JPEG, PNG or WebP to RGB (H, W, 3), uint8, upright.

    The EXIF orientation is applied; grey becomes RGB, 16 bits become 8, alpha is dropped, CMYK is converted.

    Args:
        data: the encoded image.
        reduce_to: a JPEG whose shorter side has at least twice so many pixels is decoded at half, a quarter or an
            eighth of its size, whatever is the smallest that keeps so many. It leaves the finest frequencies undecoded,
            which takes less time than to resample them away.

    Raises:
        BadSample: `image_type`, `image_size`, `truncated_image` or `undecodable_image`.
    """
    header = read_header(data)
    reduced = reduced_grey(header, reduce_to) if reduce_to and header.extension == "jpg" else 0
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | reduced)
    except cv2.error as error:
        raise BadSample("undecodable_image", f"The {header.extension} image cannot be decoded: {error.err}.") from None
    if image is None:
        raise BadSample("undecodable_image", f"The {header.extension} image cannot be decoded; it is damaged.")
    return image  # type: ignore[return-value]


def reduced_grey(header: ImageHeader, least: int) -> int:
    """OpenCV's flag for grey at the smallest size whose shorter side keeps `least` pixels: whole, 1/2, 1/4 or 1/8.

    Beside a flag of colour it asks for nothing but the size; the reduced flags of colour would ask for BGR.
    """
    shorter = min(header.height, header.width)
    return next((flag for factor, flag in _REDUCED.items() if shorter // factor >= least), cv2.IMREAD_GRAYSCALE)


def read_header(data: Encoded) -> ImageHeader:
    """Read type and size without decoding, and check that the image has its end.

    Raises:
        BadSample: `image_type`, `image_size` or `truncated_image`.
    """
    try:
        header, complete = _sniff(data)
    except IndexError:
        raise BadSample("truncated_image", f"The image is cut off in its header, after {len(data)} bytes.") from None
    if not complete:
        raise BadSample("truncated_image", f"The {header.extension} image is cut off after {len(data)} bytes.")
    if not 0 < header.height * header.width <= MAX_PIXELS:
        size = f"{header.width} x {header.height}"
        raise BadSample("image_size", f"Expected an image of 1 to {MAX_PIXELS:,} pixels, but its header says {size}.")
    return header


def _sniff(data: Encoded) -> tuple[ImageHeader, bool]:
    if data[:3] == _JPEG_START:
        return _jpeg(data)
    if data[:8] == _PNG_MAGIC:
        header = ImageHeader("png", _number(data, 20, 4), _number(data, 16, 4))
        return header, _PNG_LAST_CHUNK in bytes(data[-4096:])  # some writers leave padding behind the last chunk
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data), len(data) >= 8 + int.from_bytes(data[4:8], "little")
    came = f"got data that starts with {bytes(data[:8])!r}" if data else "it is empty"
    raise BadSample("image_type", f"Expected a JPEG, PNG or WebP image, but {came}.")


def _jpeg(data: Encoded) -> tuple[ImageHeader, bool]:
    """Walk the segments to the first scan. libjpeg may fill a cut image with grey, so look for the end marker here."""
    height = width = 0
    position = 2
    while True:
        while data[position + 1] == 0xFF:  # fill bytes before a marker
            position += 1
        marker, length = data[position + 1], _number(data, position + 2, 2)
        if data[position] != 0xFF or length < 2:
            raise BadSample("undecodable_image", f"The JPEG image is damaged at byte {position} of its header.")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = _number(data, position + 5, 2), _number(data, position + 7, 2)
        position += 2 + length
        if marker == 0xDA:  # start of scan: 0xFF is stuffed from here on, so an end marker is the end
            scan = data[position:]
            return ImageHeader("jpg", height, width), scan[-2:] == _JPEG_END or _JPEG_END in bytes(scan)


def _webp(data: Encoded) -> ImageHeader:
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        return ImageHeader("webp", 1 + _number(data, 27, 3, "little"), 1 + _number(data, 24, 3, "little"))
    if chunk == b"VP8L":
        bits = _number(data, 21, 4, "little")
        return ImageHeader("webp", 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    if chunk == b"VP8 ":
        return ImageHeader("webp", _number(data, 28, 2, "little") & 0x3FFF, _number(data, 26, 2, "little") & 0x3FFF)
    raise BadSample("image_type", f"Expected a WebP image, but its first chunk is {chunk!r}.")


def _number(data: Encoded, position: int, size: int, order: str = "big") -> int:
    if position + size > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + size], order)  # type: ignore[arg-type]
