"""Pictures inside a page, as small as a page needs them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LONGER_SIDE = 320  # pixels of a picture on the page
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """One picture on the page: what stands above and below it, and the data itself as a data: URI."""

    title: str
    caption: str
    alt: str
    data: str


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one image side by side."""

    group: str
    key: str
    pictures: list[Picture]


def shrink(values: NDArray[np.floating], valid: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map (H, W) at the size of the page; each pixel is the mean of the valid ones under it: sparse ones show."""
    height, width = valid.shape
    scale = min(LONGER_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    known = np.where(valid, values, 0).astype(np.float32)
    total, weight = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (known, valid.astype(np.float32)))
    return np.divide(total, weight, out=np.zeros(weight.shape, np.float32), where=weight > 0), weight > 0


def encode(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) -> data: URI of a JPEG no larger than the page needs."""
    height, width = picture.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
