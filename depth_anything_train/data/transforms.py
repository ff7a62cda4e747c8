"""From a decoded sample to a training view: one geometry for image and label, colour and blur for the student alone.

Both take their random numbers from outside, so a view depends on what it is a view of and on nothing else.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import Sample
from depth_anything_train.runtime import UserError

MAX_ASPECT = 16
"""Longer side over shorter side. A strip one pixel high would be stretched to gigabytes before it is cropped."""


class Geometry:
    """Shorter side to `size` keeping the aspect, random crop of size x size, random flip: sections 4.1 and 6.

    Image and label share crop and flip. The image is resampled bicubically, labels take the nearest pixel: a mean of
    two disparities, or of two classes, is a surface that is not there. Where that pixel was not measured, a smaller
    view takes the nearest surface that was measured inside its pixel.

    Args:
        size: side of the crop in pixels.
        flip: probability of a horizontal flip.
    """

    def __init__(self, size: int, *, flip: float = 0.5) -> None:
        if size < 1 or not 0 <= flip <= 1:
            raise UserError(f"Expected data.size >= 1 and a flip probability in 0 to 1, but came {size} and {flip}.")
        self.size, self.flip = size, flip

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return `sample` with each array cropped to (size, size), whatever the label's resolution was.

        Raises:
            BadSample: `extreme_aspect`.
        """
        return self.crop(self.fit(sample), rng)

    def fit(self, sample: Sample) -> Sample:
        """Bring each array to the size that is cropped: what all views of a sample have in common.

        Raises:
            BadSample: `extreme_aspect`.
        """
        height, width = sample["image"].shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise BadSample("extreme_aspect", f"Image {sample['key']} is {width} x {height} pixels, a mere strip.")
        scale = self.size / min(height, width)
        height, width = (max(self.size, round(side * scale)) for side in (height, width))
        fitted = _each(sample, lambda name, pixels: _resize(pixels, height, width, cubic=name == "image"))
        if "valid" in sample and sample["valid"].size > height * width and not fitted["valid"].all():
            _fill(fitted["disparity"], fitted["valid"], sample["disparity"], sample["valid"])
        return fitted

    def crop(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Cut one random view out of a sample that fits; the arrays are new."""
        height, width = sample["image"].shape[:2]
        top, left = int(rng.integers(height - self.size + 1)), int(rng.integers(width - self.size + 1))
        window = np.s_[top : top + self.size, left : left + self.size]
        flipped = rng.random() < self.flip
        return _each(sample, lambda _, pixels: cv2.flip(pixels[window], 1) if flipped else pixels[window].copy())


def _each(sample: Sample, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> Sample:
    """Change the arrays of a sample, by name. OpenCV knows no bool, so masks are shown to it as bytes."""
    changed = dict(sample)
    for name, pixels in sample.items():
        if isinstance(pixels, np.ndarray):
            stored = pixels.view(np.uint8) if pixels.dtype == bool else pixels
            changed[name] = change(name, stored).view(pixels.dtype)
    return changed


def _resize(pixels: NDArray, height: int, width: int, *, cubic: bool) -> NDArray:
    if pixels.shape[:2] == (height, width):
        return pixels
    # INTER_NEAREST_EXACT shares its pixel centres with INTER_CUBIC; INTER_NEAREST would shift a label of three times
    # the size by a third of a pixel.
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST_EXACT)


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


class StrongPerturbation:
    """Colour jitter and Gaussian blur for the student's unlabelled images: section 3.2, "strong perturbations".

    The paper gives no values; see configs/data/perturbation for those used and where they come from.

    Args:
        jitter_p: probability of the colour jitter.
        brightness: factor is drawn from 1 - x to 1 + x.
        contrast: likewise.
        saturation: likewise.
        hue: shift is drawn from -x to x, where 1 is a full turn.
        grayscale_p: probability of a grey image.
        blur_p: probability of the blur.
        blur_sigma: its standard deviation in pixels is drawn from this range.
    """

    def __init__(
        self,
        *,
        jitter_p: float = 0.8,
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.25,
        grayscale_p: float = 0.0,
        blur_p: float = 0.5,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
    ) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or the import asks the network for a newer version
        import albumentations  # here, because it takes seconds

        try:
            self._chain = albumentations.Compose(
                [
                    albumentations.ColorJitter(brightness, contrast, saturation, hue, p=jitter_p),
                    albumentations.ToGray(p=grayscale_p),
                    albumentations.GaussianBlur(blur_limit=0, sigma_limit=tuple(blur_sigma), p=blur_p),
                ]
            )
        except ValueError as error:
            raise UserError(f"Expected probabilities and ranges in data.perturbation, but {error}") from None

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Perturb an image (H, W, 3); the same image and seed give the same result in any process and any order."""
        # Not `set_random_seed`: it seeds every transform alike, so their first draws agree and an image that is
        # blurred is always jittered too. One shared state makes the draws independent.
        self._chain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._chain(image=image)["image"]
