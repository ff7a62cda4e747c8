"""What is suspicious about an image or its pseudo label: pure functions, and the limits above which they flag it.

A flag is a note in the manifest; the label is stored all the same, and training decides whom to leave out
(`skip=[flat, tiny]`). All scores look at every fourth pixel each way, which is plenty for a share or a spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TINY, SATURATED, FLAT, FLIP, NOT_FINITE = "tiny", "saturated", "flat", "flip", "not_finite"
"""Reasons, as in `manifest["flags"][reason]`."""

DARK, BRIGHT = 5, 250  # grey levels at and beyond which a pixel shows nothing
_SPARSE = slice(None, None, 4)


@dataclass(frozen=True)
class Filters:
    """Limits of what is flagged; None switches a filter off. `not_finite` has no limit: one such pixel is enough.

    Args:
        tiny: an image with a shorter side below this, pixels.
        saturated: an image with more than this share of pixels that are black or white in all channels.
        flat: a label whose spread is below this share of its nearest disparity (see `spread`).
        flip: a label that differs from that of the mirrored image by more than this share of its spread, on
            average; needs labelling with flip.
    """

    tiny: float | None = 64
    saturated: float | None = 0.7
    flat: float | None = 0.02
    flip: float | None = 0.1

    def image_flags(self, image: NDArray[np.uint8]) -> Iterator[str]:
        """Reasons to suspect an image, RGB (H, W, 3)."""
        if self.tiny is not None and min(image.shape[:2]) < self.tiny:
            yield TINY
        if self.saturated is not None and saturated_share(image) > self.saturated:
            yield SATURATED

    def label_flags(self, views: NDArray[np.float32]) -> Iterator[str]:
        """Reasons to suspect a prediction (1, H, W), or (2, H, W) with that of the mirrored image, mirrored back."""
        if not np.isfinite((views.min(), views.max())).all():  # both are NaN if any value is
            yield NOT_FINITE
            return
        if self.flat is not None and spread(views) < self.flat:
            yield FLAT
        if self.flip is not None and len(views) > 1 and flip_disagreement(views) > self.flip:
            yield FLIP


def saturated_share(image: NDArray[np.uint8]) -> float:
    """Share of pixels of an RGB image (H, W, 3) that are black, or white, in all channels."""
    red, green, blue = np.moveaxis(image[_SPARSE, _SPARSE], 2, 0)
    dark = np.maximum(np.maximum(red, green), blue) <= DARK
    bright = np.minimum(np.minimum(red, green), blue) >= BRIGHT
    return float(np.mean(dark | bright))


def spread(views: NDArray[np.float32]) -> float:
    """From the 5th to the 95th percentile of a prediction (V, H, W), as a share of the latter: 0 is constant."""
    far, near = _far_and_near(views)
    return (near - far) / near if near > 0 else 0.0


def flip_disagreement(views: NDArray[np.float32]) -> float:
    """Mean difference of two predictions (2, H, W) as a share of what their mean spans from 5 to 95 %."""
    plain, mirrored = views[:, _SPARSE, _SPARSE]
    difference = float(np.abs(plain - mirrored).mean())
    far, near = _far_and_near(views)
    return difference / max(near - far, float(np.finfo(np.float32).tiny)) if difference else 0.0


def _far_and_near(views: NDArray[np.float32]) -> tuple[float, float]:
    """The 5th and the 95th percentile of the mean of all views, to the nearest pixel looked at."""
    values = views[:, _SPARSE, _SPARSE].mean(0).ravel()
    ranks = [round(share * (values.size - 1)) for share in (0.05, 0.95)]
    far, near = np.partition(values, ranks)[ranks]
    return float(far), float(near)
