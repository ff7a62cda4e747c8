"""Perceptual hashes: 64 bits of an image that survive resizing, recompression and small crops.

The 8 x 8 lowest frequencies of the discrete cosine transform beside their median, as in pHash. It is written here
because the imagehash library decodes with PIL at full size; this one decodes JPEGs at a fraction of their size.
A hash alone cannot tell a crop from another image, so an image is hashed in several windows, and pairs that are near
by their hashes are compared again by `correlation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import read_header, reduced_grey
from depth_anything_train.data.schema import BadSample, Encoded

VERSION = 1
"""To be raised with any change of what an image's hashes are, or when two images are one: results are kept on disk."""

SIDE = 128
"""Pixels of the square to which an image is decoded; its aspect is dropped, so a copy may be squashed."""

WINDOWS = (
    (0, 0, 128),
    *((3, 3, 122), (0, 0, 122), (6, 0, 122), (0, 6, 122), (6, 6, 122)),  # 0.95 of a side: centre and corners
    *((6, 6, 115), (0, 0, 115), (13, 0, 115), (0, 13, 115), (13, 13, 115)),  # 0.9 of a side
)
"""Left, top and side in pixels of each window that is hashed. The first is the whole image."""

_SAMPLED = 32  # side of a window when it is transformed
_COSINES = np.cos(np.pi / _SAMPLED * np.outer(np.arange(8), np.arange(_SAMPLED) + 0.5)).astype(np.float32)
_COSINES[0] /= np.float32(np.sqrt(2))  # (8, 32), the lowest rows of the discrete cosine transform
_LEAST_CONTRAST = 2.0  # standard deviation of grey levels; below it the signs are those of noise
_SIDES = tuple(range(SIDE, round(0.8 * SIDE), -3))  # of one image inside the other, tried by `correlation`
_FINEST, _COARSEST = 1.0, 4.0  # pixels; finer detail is lost in copies, coarser shade is much the same in many images


def read_square(data: Encoded) -> NDArray[np.uint8]:
    """Decode an image to grey levels (128, 128); a large JPEG is read at a half to an eighth of its size: faster.

    Raises:
        BadSample: `image_type`, `image_size`, `truncated_image`, `undecodable_image`; `blank_image` if it shows
            nothing that could be recognised.
    """
    header = read_header(data)
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), reduced_grey(header, SIDE))
    except cv2.error as error:
        raise BadSample("undecodable_image", f"The {header.extension} image cannot be decoded: {error.err}.") from None
    if grey is None:
        raise BadSample("undecodable_image", f"The {header.extension} image cannot be decoded; it is damaged.")
    square = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if square.std() < _LEAST_CONTRAST:
        raise BadSample("blank_image", "The image is of one shade; it cannot be told from others of its kind.")
    return square  # type: ignore[return-value]


def window_hashes(square: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits for each of the `WINDOWS` of what `read_square` gave: which low frequencies lie above their median."""
    parts = (square[top : top + side, left : left + side] for left, top, side in WINDOWS)
    small = np.stack([cv2.resize(part, (_SAMPLED, _SAMPLED), interpolation=cv2.INTER_AREA) for part in parts])
    lowest = (_COSINES @ small.astype(np.float32) @ _COSINES.T).reshape(len(WINDOWS), 64)
    return np.packbits(lowest > np.median(lowest, axis=1, keepdims=True), axis=1).view(np.uint64)[:, 0]


def correlation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Largest correlation, -1 to 1, of one square's detail with a window of the other of at least 0.8 of its side."""
    best = -1.0
    for whole, part in ((a, b), (b, a)):
        detail = _detail(whole)
        for side in _SIDES:
            inside = _detail(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA))
            best = max(best, float(cv2.matchTemplate(detail, inside, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _detail(square: NDArray[np.uint8] | cv2.typing.MatLike) -> cv2.typing.MatLike:
    levels = square.astype(np.float32)
    return cv2.GaussianBlur(levels, (0, 0), _FINEST) - cv2.GaussianBlur(levels, (0, 0), _COARSEST)


class Near(NamedTuple):
    """Two images whose hashes are near: rows of the two arrays, and the distance in bits."""

    a: int
    b: int
    distance: int


def near_pairs(a: NDArray[np.uint64], b: NDArray[np.uint64], max_distance: int) -> list[Near]:
    """Pairs of images of which one as a whole is near a window of the other.

    Args:
        a: (N, W) hashes of the windows of N images, the whole image first.
        b: (M, W) those of M others.
        max_distance: bits that may differ.

    Returns:
        Each pair once, with its smallest distance, in order.
    """
    found: dict[tuple[int, int], int] = {}
    windows = a.shape[1]
    sides = [(0, window) for window in range(windows)] + [(window, 0) for window in range(1, windows)]
    for of_a, of_b in sides:
        for i, j, distance in _near(a[:, of_a], b[:, of_b], max_distance):
            found[i, j] = min(distance, found.get((i, j), distance))
    return [Near(i, j, distance) for (i, j), distance in sorted(found.items())]


def _near(a: NDArray[np.uint64], b: NDArray[np.uint64], max_distance: int) -> Iterator[tuple[int, int, int]]:
    """All pairs (i, j, distance) of two rows of hashes, by XOR and bit count, in blocks that stay in the cache."""
    b = np.ascontiguousarray(b)
    rows, columns = 32, 4096
    for top, left in itertools.product(range(0, len(a), rows), range(0, len(b), columns)):
        distances = np.bitwise_count(a[top : top + rows, None] ^ b[None, left : left + columns])
        near = distances <= max_distance
        if near.any():
            for i, j in np.argwhere(near).tolist():
                yield top + i, left + j, int(distances[i, j])
