"""From a decoded sample to a training view: one geometry for image and label.

Its random numbers come from outside, so that a view depends on what it is a view of and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import MAX_NETWORK_PIXELS
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import Sample
from depth_anything_train.runtime import UserError

MAX_ASPECT = 16
"""Longer side over shorter side. A strip one pixel high would be stretched to gigabytes before it is cropped."""

STRETCH = "stretch"
"""Beside the arrays of a sample that fits a pair of sides: how much more it was stretched in height than in width."""


class Geometry:
    """Image and label to one size with one crop, rotation and flip.

    A whole number as size is the relative recipe: shorter side to `size` keeping the aspect, random crop of size x
    size (V1 sections 4.1 and 6). A pair (height, width) is the metric one: stretched to it, nothing cut off.

    The image is resampled bicubically, labels take the nearest pixel: a mean of two disparities, or of two classes, is
    a surface that is not there. Where that pixel was not measured, a smaller view takes the nearest surface that was
    measured inside its pixel.

    Args:
        size: side of the crop in pixels, or (height, width).
        flip: probability of a horizontal flip.
        rotate_deg: largest random rotation either way, in degrees of the picture as it was before it was stretched; the
            corners it uncovers are black, without label.
    """

    def __init__(self, size: int | Sequence[int], *, flip: float = 0.5, rotate_deg: float = 0.0) -> None:
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides) or not 0 <= flip <= 1:
            raise UserError(
                "Expected data.size >= 1, or [height, width], and a flip probability in 0 to 1, but got "
                f"{size} and {flip}."
            )
        if math.prod(sides) > MAX_NETWORK_PIXELS:
            raise UserError(f"Expected a view of at most {MAX_NETWORK_PIXELS:,} pixels, but got data.size={size}.")
        if not 0 <= rotate_deg < 90:
            raise UserError(f"Expected data.rotate_deg in 0 to 90, but got {rotate_deg}.")
        self.shape, self.stretched = (sides[0], sides[1]), not isinstance(size, int)
        self.flip, self.rotate_deg = flip, rotate_deg

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return `sample` with each array cropped to `shape`, whatever the label's resolution was.

        Raises:
            BadSample: `extreme_aspect`.
        """
        return self.crop(self.fit(sample), rng)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image of that size is brought before it is cropped."""
        if self.stretched:
            return self.shape
        scale = self.shape[0] / min(height, width)
        return max(self.shape[0], round(height * scale)), max(self.shape[0], round(width * scale))

    def fit(self, sample: Sample) -> Sample:
        """Bring each array to the size that is cropped: what all views of a sample have in common.

        Raises:
            BadSample: `extreme_aspect`.
        """
        height, width = self.sides(*check_aspect(sample))
        fitted = each_array(sample, lambda name, pixels: _resized(name, pixels, height, width))
        if "valid" in sample and sample["valid"].size > height * width and not fitted["valid"].all():
            _fill(fitted["disparity"], fitted["valid"], sample["disparity"], sample["valid"])
        if self.stretched:
            before = sample["image"].shape
            fitted[STRETCH] = height / before[0] * before[1] / width
        return fitted

    def crop(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Cut one random view out of a sample that fits; it may lie in the sample's arrays, so it is not written to."""
        sample = dict(sample)
        stretch = sample.pop(STRETCH, 1.0)
        if self.rotate_deg:
            sample = _rotate(sample, float(rng.uniform(-self.rotate_deg, self.rotate_deg)), stretch)
        height, width = sample["image"].shape[:2]
        top, left = (int(rng.integers(a - b + 1)) for a, b in zip((height, width), self.shape, strict=True))
        window = np.s_[top : top + self.shape[0], left : left + self.shape[1]]
        flipped = rng.random() < self.flip
        return each_array(sample, lambda _, pixels: cv2.flip(pixels[window], 1) if flipped else pixels[window])


def check_aspect(sample: Sample) -> tuple[int, int]:
    """Height and width of the image.

    Raises:
        BadSample: `extreme_aspect`.
    """
    height, width = sample["image"].shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise BadSample("extreme_aspect", f"Image {sample['key']} is {width} x {height} pixels, a mere strip.")
    return height, width


def each_array(sample: Sample, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> Sample:
    """Change the arrays of a sample, by name. OpenCV knows no bool, so masks are shown to it as bytes."""
    changed = dict(sample)
    for name, pixels in sample.items():
        if isinstance(pixels, np.ndarray):
            stored = pixels.view(np.uint8) if pixels.dtype == bool else pixels
            changed[name] = change(name, stored).view(pixels.dtype)
    return changed


def _resized(name: str, pixels: NDArray, height: int, width: int) -> NDArray:
    if name == "valid" and pixels.all():
        return np.ones((height, width), pixels.dtype)  # as most pseudo labels are
    return resize(pixels, height, width, cubic=name == "image")


def resize(pixels: NDArray, height: int, width: int, *, cubic: bool) -> NDArray:
    """Resample an array (h, w, ...) bicubically, or by the nearest pixel."""
    if pixels.shape[:2] == (height, width):
        return pixels
    # INTER_NEAREST_EXACT shares its pixel centres with INTER_CUBIC; INTER_NEAREST would shift a label of three times
    # the size by a third of a pixel.
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST_EXACT)


def _rotate(sample: Sample, angle_deg: float, stretch: float) -> Sample:
    """About the middle; what comes from outside is 0, so black and not valid.

    A picture stretched so many times more in height than in width is turned as it would have been before: a turn of the
    stretched one would tilt its verticals more than its horizon.
    """
    height, width = sample["image"].shape[:2]
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    linear = np.array([[cos, sin / stretch], [-sin * stretch, cos]])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    turn = np.column_stack([linear, middle - linear @ middle])

    def rotated(name: str, pixels: NDArray[Any]) -> NDArray[Any]:
        return cv2.warpAffine(
            pixels, turn, (width, height), flags=cv2.INTER_LINEAR if name == "image" else cv2.INTER_NEAREST
        )

    return each_array(sample, rotated)


def _fill(
    disparity: NDArray[np.float32], valid: NDArray[np.bool_], measured: NDArray[np.float32], where: NDArray[np.bool_]
) -> None:
    """Give each pixel without a label the nearest surface that was measured inside it, in place.

    Of a LiDAR's 0.4 % of two megapixels, the pixels in the middle of the cells alone would leave 80 of 20,000.
    """
    height, width = valid.shape
    rows, columns = np.nonzero(where)
    cells = rows * height // where.shape[0] * width + columns * width // where.shape[1]
    found = np.full(valid.size, -1, np.float32)
    np.maximum.at(found, cells, measured[rows, columns])
    filled = ~valid & (found >= 0).reshape(valid.shape)
    disparity[filled] = found.reshape(valid.shape)[filled]
    valid |= filled
