"""The baseline every model has to beat: the average label, whatever the image shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from depth_anything_train.data.schema import Label
from depth_anything_train.inference.prediction import Focals, Kind
from depth_anything_train.ops.alignment import robust_normalize
from depth_anything_train.runtime import UserError

GRID = (96, 128)


class MeanMap:
    """Predicts one map for every image: rooms and streets alike are nearer at the bottom.

    Args:
        mean: disparity (h, w), float32: the average of the labels' normalised one, or 1/m.
        kind: which of the two.
    """

    encoder_name = None
    setup: Mapping[str, Any] = {}

    def __init__(self, mean: NDArray[np.float32], kind: Kind = "relative") -> None:
        self.mean, self.kind = mean, kind

    @classmethod
    def from_labels(cls, labels: Iterable[Label]) -> MeanMap:
        """Average (disparity, valid) maps of any sizes, each by its own median and deviation, on one grid.

        A grid cell is the mean over the labels that have valid pixels there; a cell that none has gets the mean map's
        own mean.

        Raises:
            UserError: no label has a valid pixel.
        """
        total, weight = np.zeros(GRID), np.zeros(GRID)
        for disparity, valid in labels:
            if valid.any():
                coverage = _on_grid(valid.astype(np.float32))
                total += _on_grid(np.where(valid, _normalized(disparity, valid), 0).astype(np.float32))
                weight += coverage
        if not weight.any():
            raise UserError("Expected labels to average for the mean map, but none has a valid pixel.")
        mean = np.divide(total, weight, out=np.full(GRID, total.sum() / weight.sum()), where=weight > 0)
        return cls(mean.astype(np.float32))

    @classmethod
    def in_metres(cls, labels: Iterable[Label], *, farthest_m: float) -> MeanMap:
        """The constant map of the smallest AbsRel on labels in metres: at each grid cell their median, weighted by 1/m.

        Args:
            labels: (disparity in 1/m, valid) of any sizes; their nearest pixel is a cell's.
            farthest_m: what is farther does not count.

        Raises:
            UserError: no label has a valid pixel.
        """
        near = []
        for disparity, valid in labels:
            known = np.where(valid & (disparity >= 1 / farthest_m), disparity, 0).astype(np.float32)
            near.append(cv2.resize(known, (GRID[1], GRID[0]), interpolation=cv2.INTER_NEAREST_EXACT))
        if not near or not np.any(near):
            raise UserError(f"Expected labels up to {farthest_m:g} m for the mean map, but none has a valid pixel.")
        weights = np.sort(np.asarray(near, np.float32), axis=0)  # 1/m is the weight too; what is unknown weighs nothing
        below = np.cumsum(weights, axis=0, dtype=np.float64)
        middle = (below < below[-1] / 2).sum(axis=0)
        mean = np.take_along_axis(weights, middle[None], axis=0)[0]
        return cls(np.where(mean > 0, mean, np.median(mean[mean > 0])).astype(np.float32), "metric")

    @property
    def hash(self) -> str:
        """Names the map."""
        return hashlib.sha256(self.mean.tobytes()).hexdigest()[:16]

    def forward(
        self, images: list[NDArray[np.uint8]], size: int | None = None, focals_px: Focals = None
    ) -> list[NDArray[np.float32]]:
        """The mean map (96, 128) once per image, in metres of the metric one; neither the images nor `size` matter."""
        values = self.mean if self.kind == "relative" else np.reciprocal(self.mean)
        return [values for _ in images]


def _normalized(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    label = torch.from_numpy(np.where(valid, disparity, 0).astype(np.float32))[None, None]
    return robust_normalize(label, torch.from_numpy(valid)[None, None])[0, 0].numpy()


def _on_grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, (GRID[1], GRID[0]), interpolation=cv2.INTER_AREA), np.float32)
