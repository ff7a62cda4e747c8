"""Changes of an image's colours and sharpness: strong ones for pseudo-labelled images, mild ones for labelled ones.

Each is a function of the image and a seed, so that a view depends on what it is a view of and on nothing else.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import UserError

Perturbation = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""Changes the colours of an image (H, W, 3), given a seed."""


class StrongPerturbation:
    """Colour jitter and Gaussian blur for the student's unlabelled images: section 3.2, "strong perturbations".

    The paper gives no values; see `configs/train/data/perturbation` for those used and where they come from.

    Args:
        jitter_p: probability of the colour jitter.
        brightness: factor is drawn from 1 - x to 1 + x.
        contrast: likewise.
        saturation: likewise.
        hue: shift is drawn from -x to x, where 1 is a full turn.
        grayscale_p: probability of a grey image.
        blur_p: probability of the blur.
        blur_sigma: its standard deviation in pixels is drawn from this range.

    Raises:
        UserError: a probability or a range is none.
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
            reason = " ".join(str(error).partition("For further information")[0].split())
            raise UserError(f"Expected probabilities and ranges in data.perturbation, but: {reason}.") from None

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Perturb an image (H, W, 3); the same image and seed give the same result in any process and any order."""
        # Not `set_random_seed`: it seeds every transform alike, so their first draws agree and an image that is
        # blurred is always jittered too. One shared state makes the draws independent.
        self._chain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._chain(image=image)["image"]


class MildColour:
    """Gamma, brightness and a factor for each channel, for labelled images of metric recipes (ZoeDepth).

    Args:
        p: probability that an image is changed at all.
        gamma: exponent is drawn from this range.
        brightness: factor on all channels, likewise.
        colour: factor on each channel, likewise.
    """

    def __init__(
        self,
        *,
        p: float = 0.5,
        gamma: tuple[float, float] = (0.9, 1.1),
        brightness: tuple[float, float] = (0.75, 1.25),
        colour: tuple[float, float] = (0.9, 1.1),
    ) -> None:
        if not 0 <= p <= 1 or not all(0 < low <= high for low, high in (gamma, brightness, colour)):
            raise UserError(
                "Expected data.colour to have p in 0 to 1 and ranges of numbers above 0, but got "
                f"{p}, {gamma}, {brightness} and {colour}."
            )
        self.p, self.gamma, self.brightness, self.colour = p, gamma, brightness, colour

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Change an image (H, W, 3); the same image and seed give the same result in any process and any order."""
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return image
        exponent, factors = rng.uniform(*self.gamma), rng.uniform(*self.brightness) * rng.uniform(*self.colour, size=3)
        levels = (np.arange(256) / 255) ** exponent
        table = _table(255 * levels[:, None] * factors)
        return cv2.LUT(image, table[None]).astype(np.uint8, copy=False)  # channel by channel


class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each changed or not: the colours of SSD and of MMSegmentation.

    Args:
        p: probability of each of the four.
        brightness: is added to all channels, drawn from -x to x of 255.
        contrast: factor on all channels, drawn from this range; before saturation and hue or after them.
        saturation: likewise, of the saturation.
        hue_deg: shift of the hue, drawn from -x to x degrees.
    """

    def __init__(
        self,
        *,
        p: float = 0.5,
        brightness: float = 32,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue_deg: float = 36,
    ) -> None:
        if not 0 <= p <= 1 or min(brightness, hue_deg) < 0 or not all(0 < a <= b for a, b in (contrast, saturation)):
            raise UserError(
                "Expected data.colour to have p in 0 to 1, brightness and hue_deg >= 0 and ranges of numbers above 0, "
                f"but got {p}, {brightness}, {hue_deg}, {contrast} and {saturation}."
            )
        self.p, self.brightness, self.hue_deg = p, brightness, hue_deg
        self.contrast, self.saturation = (contrast[0], contrast[1]), (saturation[0], saturation[1])

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Change an image (H, W, 3); the same image and seed give the same result in any process and any order."""
        rng = np.random.default_rng(seed)
        chosen = rng.random(4) < self.p
        added, hue = rng.uniform(-self.brightness, self.brightness), rng.uniform(-self.hue_deg, self.hue_deg)
        contrast, saturation = rng.uniform(*self.contrast), rng.uniform(*self.saturation)
        contrast_first = rng.random() < 0.5
        levels = np.arange(256, dtype=np.float32)
        changed: NDArray[Any] = image
        if chosen[0]:
            changed = cv2.LUT(changed, _table(levels + added))
        if chosen[1] and contrast_first:
            changed = cv2.LUT(changed, _table(levels * contrast))
        if chosen[2] or chosen[3]:
            turned = np.rint(levels + (hue / 2 if chosen[3] else 0)) % 180  # OpenCV counts hues in steps of two degrees
            tables = [turned, levels * (saturation if chosen[2] else 1), levels]
            hsv = cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)
            hsv = cv2.LUT(hsv, np.stack([_table(table) for table in tables], axis=-1)[None])
            changed = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if chosen[1] and not contrast_first:
            changed = cv2.LUT(changed, _table(levels * contrast))
        return changed.astype(np.uint8, copy=False)


def _table(levels: NDArray) -> NDArray[np.uint8]:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
