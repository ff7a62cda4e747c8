"""PNG files of numbers in 16 bits, which say in the file itself what they are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.inference.prediction import Prediction

LAST_LEVEL = 65535
MILLIMETRES, OF_KITTI = 1000.0, 256.0
"""Levels of a metre: NYUv2's, and KITTI's where a model sees farther than 65.535 m."""
SMALLEST_RANGE = 1e-12  # of disparity: a constant map is no division by zero
HEADER = 8 + 25  # bytes of a PNG before what may hold texts: its signature and its header


def to_16bit(prediction: Prediction) -> NDArray[np.uint16]:
    """(H, W): metres of a metric model in levels of `describe_16bit`; relative disparity over the whole range.

    A level is a millimetre, or 1/256 m of a model that was made for more than 65.535 m, so that all photographs of one
    model have the same unit. The last level is that far or farther.
    """
    scale, offset = _steps(prediction)
    return np.rint((prediction.values - offset) / scale).clip(0, LAST_LEVEL).astype(np.uint16)


def describe_16bit(prediction: Prediction) -> dict[str, str]:
    """What the levels of `to_16bit` mean, as texts for their PNG: value = level * scale + offset."""
    scale, offset = _steps(prediction)
    metric = prediction.kind == "metric"
    return {
        "quantity": "depth" if metric else "relative disparity",
        "unit": "m" if metric else "none",
        "near_is": "small" if metric else "large",
        "scale": repr(scale),
        "offset": repr(offset),
    }


def _steps(prediction: Prediction) -> tuple[float, float]:
    """What one level is worth, and what level 0 is."""
    if prediction.kind == "metric":
        sees_farther = prediction.farthest_m is not None and prediction.farthest_m * MILLIMETRES > LAST_LEVEL
        return 1 / (OF_KITTI if sees_farther else MILLIMETRES), 0.0
    low, high = float(prediction.values.min()), float(prediction.values.max())
    return max(high - low, SMALLEST_RANGE) / LAST_LEVEL, low


def with_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG with texts (tEXt) by their keyword."""
    chunks = b"".join(_chunk(b"tEXt", f"{name}\0{text}".encode("latin-1")) for name, text in texts.items())
    return png[:HEADER] + chunks + png[HEADER:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
