"""The focal length of a sample's camera, and how it changes when the image is resized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def read_focal(meta: Mapping[str, Any]) -> float | None:
    """Focal length in pixels of the image, by the `camera` of a sample's json; None if it states no sound one.

    Of fx and fy the geometric mean: pixels that are not square are as a square image that was stretched.
    """
    camera = meta.get("camera")
    focals = [camera.get(name) for name in ("fx", "fy")] if isinstance(camera, dict) else []
    known = [focal for focal in focals if isinstance(focal, int | float) and 0 < focal < math.inf]
    return math.sqrt(math.prod(known)) if len(known) == 2 else None


def resized_focal(focal_px: float, before: Sequence[int], after: Sequence[int]) -> float:
    """Focal length in pixels of an image (height, width, ...) brought from one size to another; crops leave it."""
    return focal_px * math.sqrt(after[0] / before[0] * after[1] / before[1])
