"""What the file of a photograph states about the camera that took it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import PIL.Image

from depth_anything_train.data.schema import Encoded
from depth_anything_train.inference.prediction import ImageLike

PHOTOGRAPH, FOCAL_35MM, WIDTH, HEIGHT = 0x8769, 0xA405, 0xA002, 0xA003
"""EXIF's section about the photograph and, in it, FocalLengthIn35mmFilm, PixelXDimension and PixelYDimension."""

FILM_DIAGONAL_MM = math.hypot(36, 24)
SAME_ASPECT = 0.02


def stated_focal(image: ImageLike) -> float | None:
    """Focal length in pixels of the photograph by EXIF's FocalLengthIn35mmFilm; None where it is not stated.

    That number is in whole millimetres and compares diagonals, whatever the aspect. A photograph whose aspect is
    another than its EXIF says was cropped afterwards, and is not believed. Of files JPEG and WebP are asked: no camera
    writes PNG, and Pillow would decode it to look.
    """
    try:
        if isinstance(image, PIL.Image.Image):
            return _focal(image)
        if isinstance(image, str | Path | Encoded):
            file = io.BytesIO(image) if isinstance(image, Encoded) else Path(image).expanduser()
            with PIL.Image.open(file, formats=("JPEG", "WEBP")) as opened:
                return _focal(opened)
    except Exception:  # Pillow raises whatever it likes on EXIF that a careless program has rewritten
        pass
    return None


def _focal(image: PIL.Image.Image) -> float | None:
    stated = image.getexif().get_ifd(PHOTOGRAPH)
    focal_mm, recorded = stated.get(FOCAL_35MM), [stated.get(name) for name in (WIDTH, HEIGHT)]
    if focal_mm is None or not 0 < focal_mm < math.inf:
        return None
    if all(recorded) and abs(_aspect(*recorded) / _aspect(*image.size) - 1) > SAME_ASPECT:
        return None
    return float(focal_mm) / FILM_DIAGONAL_MM * math.hypot(*image.size)


def _aspect(width: Any, height: Any) -> float:
    """Of the longer side to the shorter: programs that turn a photograph leave the recorded sides as they were."""
    return max(width, height) / min(width, height)
