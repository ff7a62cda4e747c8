"""Pictures as PNG files."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def encode_png(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG of RGB (H, W, 3) or of one channel (H, W)."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture)[1].tobytes()
