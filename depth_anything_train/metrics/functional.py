"""The error measures of monocular depth, one function each.

Every function takes two float64 vectors of the same P > 0 pixels, prediction first and truth second, both positive and
of the same quantity and unit, and returns one number. Which pixels those are, and how the prediction was aligned, is
the protocol's business (`metrics/depth.py`). Nothing here averages over images.

- Eigen et al., 2014, https://arxiv.org/abs/1406.2283, sec. 4
- Depth Anything, 2024, https://arxiv.org/abs/2401.10891, sec. 4.2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Pixels: TypeAlias = Tensor
"""Float64 (P,): one quantity at P pixels."""


def abs_rel(predicted: Pixels, truth: Pixels) -> float:
    """Mean of |prediction - truth| / truth; no unit, 0 is perfect."""
    return ((predicted - truth).abs() / truth).mean().item()


def sq_rel(predicted: Pixels, truth: Pixels) -> float:
    """Mean of (prediction - truth)^2 / truth; in the unit of the truth, 0 is perfect."""
    return ((predicted - truth) ** 2 / truth).mean().item()


def rmse(predicted: Pixels, truth: Pixels) -> float:
    """Root of the mean squared error; in the unit of the truth, 0 is perfect."""
    return ((predicted - truth) ** 2).mean().sqrt().item()


def rmse_log(predicted: Pixels, truth: Pixels) -> float:
    """Root of the mean squared error of natural logarithms; no unit, 0 is perfect."""
    return ((predicted.log() - truth.log()) ** 2).mean().sqrt().item()


def silog(predicted: Pixels, truth: Pixels) -> float:
    """100 times the standard deviation of the error of natural logarithms: what remains after the best single scale."""
    error = predicted.log() - truth.log()
    # Centred before squaring: mean(e^2) - mean(e)^2 is the same number, but cancels to below zero on good predictions.
    return 100.0 * ((error - error.mean()) ** 2).mean().sqrt().item()


def log10(predicted: Pixels, truth: Pixels) -> float:
    """Mean of |log10 prediction - log10 truth|; no unit, 0 is perfect."""
    return (predicted.log10() - truth.log10()).abs().mean().item()


def delta(predicted: Pixels, truth: Pixels, power: int) -> float:
    """Share of pixels with max(prediction / truth, truth / prediction) < 1.25^power; 1 is perfect."""
    ratio = (predicted / truth).maximum(truth / predicted)
    return (ratio < 1.25**power).double().mean().item()


def delta1(predicted: Pixels, truth: Pixels) -> float:
    """Share of pixels within a factor of 1.25."""
    return delta(predicted, truth, 1)


def delta2(predicted: Pixels, truth: Pixels) -> float:
    """Share of pixels within a factor of 1.25^2."""
    return delta(predicted, truth, 2)


def delta3(predicted: Pixels, truth: Pixels) -> float:
    """Share of pixels within a factor of 1.25^3."""
    return delta(predicted, truth, 3)


RATIO_METRICS: dict[str, Callable[[Pixels, Pixels], float]] = {
    "abs_rel": abs_rel,
    "delta1": delta1,
    "delta2": delta2,
    "delta3": delta3,
    "rmse_log": rmse_log,
    "silog": silog,
    "log10": log10,
}
"""Measures that do not change when prediction and truth are multiplied by one number: fit for labels of any unit."""

UNIT_METRICS: dict[str, Callable[[Pixels, Pixels], float]] = {"rmse": rmse, "sq_rel": sq_rel}
"""Measures that carry the unit of the truth: meaningful in metres only."""

HIGHER_IS_BETTER = frozenset({"delta1", "delta1_disparity", "delta2", "delta3", "accuracy"})
