"""Two ways to remove the unknown scale and shift of a disparity map; losses and metrics share them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from depth_anything_train.ops.masked import masked_mean, masked_medians
from depth_anything_train.types import Disparity, Valid

SMALLEST_SPREAD = 1e-6  # the floor that MiDaS uses; a constant map has spread 0


def robust_normalize(x: Disparity, valid: Valid) -> Disparity:
    """Each image with median 0 and mean absolute deviation 1 over its valid pixels; exactly 0 at the others.

    Differentiable through both statistics. A constant image becomes 0.

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891, eq. 2-3
    """
    return _normalize_all([x], [valid])[0]


def aligned_residual(prediction: Disparity, target: Disparity, *parts: Valid) -> Disparity:
    """Normalised prediction minus normalised target, in each of some parts of the images by itself; 0 outside all.

    Parts of an image do not overlap.
    """
    normalized = _normalize_all([prediction, target] * len(parts), [part for part in parts for _ in range(2)])
    residuals = [ours - theirs for ours, theirs in zip(normalized[::2], normalized[1::2], strict=True)]
    return functools.reduce(torch.add, residuals)


def _normalize_all(maps: Sequence[Disparity], valid: Sequence[Valid]) -> list[Disparity]:
    """`robust_normalize` of several batches, whose medians are found together."""
    # First of all, so that a NaN meets no arithmetic and no gradient.
    maps = [x.where(ok, 0.0) for x, ok in zip(maps, valid, strict=True)]
    return [_normalize(*one) for one in zip(maps, masked_medians(maps, valid), valid, strict=True)]


def _normalize(x: Disparity, median: Tensor, valid: Valid) -> Disparity:
    mask = valid.to(x.dtype)
    deviation = (x - median) * mask
    axes = tuple(range(1, x.ndim))
    spread = deviation.abs().sum(dim=axes, keepdim=True) / mask.sum(dim=axes, keepdim=True).clamp(min=1)
    return deviation / spread.clamp(min=SMALLEST_SPREAD)


def least_squares_scale_shift(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, both (B, 1, ...), that bring each prediction nearest to its target in the least-squares sense.

    In closed form about the means, which keeps float32 accurate; pass float64 for evaluation. A constant prediction,
    up to rounding, gets scale 0 and the mean of the target as shift, an image without valid pixels gets 0 and 0.

    - [0]: MiDaS, 2020, https://arxiv.org/abs/1907.01341, eq. 4
    """
    prediction, target = prediction.where(valid, 0.0), target.where(valid, 0.0)
    mean_prediction, mean_target = masked_mean(prediction, valid), masked_mean(target, valid)
    centred = prediction - mean_prediction
    variance = masked_mean(centred.square(), valid)
    covariance = masked_mean(centred * (target - mean_target), valid)
    constant = variance <= (4 * torch.finfo(prediction.dtype).eps * mean_prediction).square()
    scale = (covariance / variance.where(~constant, 1.0)).where(~constant, 0.0)
    return scale, mean_target - scale * mean_prediction
