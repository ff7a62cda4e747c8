"""A video's disparity without flicker: each frame brought to the scale and shift of the one before it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.inference.outputs import PictureLimits
from depth_anything_train.inference.prediction import Prediction

PIXELS = 20_000  # of a frame that are looked at; two numbers do not need more
ROUNDS, KEPT = 3, 0.8  # of the robust fit: each round leaves out the fifth that fits worst, which is what moves
CUT = 0.85
"""Correlation below which the scene has changed. Of maps of different places nine in ten stay below 0.78 (34 measured
ones, fitted like this); two views of one place that are 2 % of the width apart reach 0.99."""
LEAK = 0.01  # of the correction, per frame: after 70 frames half is forgotten, so that nothing drifts away for good
PICTURE_WEIGHT = 0.05  # weight of a frame in the limits of its pictures: they follow within a second


class TemporalAlignment:
    """Takes the jumps of scale and shift out of a video, frame after frame, in constant memory.

    A relative model leaves the scale and shift of every frame open, and from frame to frame they jump. Each frame is
    fitted to the one before it as that came out; at a cut everything starts anew. Slow changes stay: the correction
    leaks, so that in the long run the numbers are the model's own. Metres have no open scale: those of a metric model
    stay as they are, and only the pictures are held.

    Args:
        percentile: percentage of pixels at either end that control maps give up for contrast.
    """

    def __init__(self, percentile: float = 0.0) -> None:
        self.percentiles = (1.0, 99.0, percentile, 100 - percentile)
        self.limits = PictureLimits((0.0, 0.0), (0.0, 0.0))
        """Of the frame that came last: running percentiles, of colours the 1st and 99th."""
        self._reference: NDArray[np.float64] | None = None

    def __call__(self, prediction: Prediction) -> Prediction:
        """The next frame (h, w), aligned; all frames have one size."""
        disparity = prediction.disparity
        step = max(math.isqrt(disparity.size // PIXELS), 1)
        values = disparity[::step, ::step].ravel().astype(np.float64)
        scale, shift, correlation = (1.0, 0.0, 0.0) if self._reference is None else robust_fit(values, self._reference)
        cut = correlation < CUT
        aligned = prediction.kind == "relative" and not cut
        if aligned:
            scale, shift = scale ** (1 - LEAK), shift * (1 - LEAK)
            values = scale * values + shift
        weight = 1.0 if cut else PICTURE_WEIGHT
        before = [*self.limits.color, *self.limits.control]
        low, high, black, white = (
            _mixed(old, new, weight)
            for old, new in zip(before, np.percentile(values, self.percentiles).tolist(), strict=True)
        )
        self.limits = PictureLimits((low, high), (black, white))
        self._reference = values
        return Prediction(np.float32(scale) * disparity + np.float32(shift)) if aligned else prediction


def robust_fit(values: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Scale and shift that bring `values` (N,) to `reference` (N,), and the correlation of the pixels that agree.

    The scale is the ratio of the spreads, which is the geometric mean of the least-squares slopes of either on the
    other. One slope alone is too small by the squared correlation, and so would the next be, whose reference is the
    outcome of this one: after some hundred frames no contrast would be left. Where either is constant: 1, 0 and 0.
    """
    kept = np.ones(values.shape, bool)
    for _ in range(ROUNDS):
        mean, spread = values[kept].mean(), values[kept].std()
        reference_mean, reference_spread = reference[kept].mean(), reference[kept].std()
        if min(spread, reference_spread) <= 0:
            return 1.0, 0.0, 0.0
        covariance = ((values[kept] - mean) * (reference[kept] - reference_mean)).mean()
        scale = reference_spread / spread
        shift = reference_mean - scale * mean
        residual = np.abs(scale * values + shift - reference)
        kept = residual <= np.quantile(residual, KEPT)
    return float(scale), float(shift), float(covariance / (spread * reference_spread))


def _mixed(old: float, new: float, weight: float) -> float:
    return (1 - weight) * old + weight * new
