"""Two ways to remove the unknown scale and shift of a disparity map; losses and metrics share them."""

from __future__ import annotations

from torch import Tensor

from depth_anything_train.ops.masked import masked_mean, masked_median
from depth_anything_train.types import Disparity, Valid

SMALLEST_SPREAD = 1e-6  # the floor that MiDaS uses; a constant map has spread 0


def robust_normalize(x: Disparity, valid: Valid) -> Disparity:
    """Each image with median 0 and mean absolute deviation 1 over its valid pixels; exactly 0 at the others.

    Differentiable through both statistics. A constant image becomes 0.

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891, eq. 2-3
    """
    x = x.where(valid, 0.0)  # first of all, so that a NaN meets no arithmetic and no gradient
    mask = valid.to(x.dtype)
    deviation = (x - masked_median(x, valid)) * mask
    axes = tuple(range(1, x.ndim))
    spread = deviation.abs().sum(dim=axes, keepdim=True) / mask.sum(dim=axes, keepdim=True).clamp(min=1)
    return deviation / spread.clamp(min=SMALLEST_SPREAD)


def least_squares_scale_shift(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, both (B, 1, ...), that bring each prediction nearest to its target in the least-squares sense.

    In closed form about the means, which keeps float32 accurate; pass float64 for evaluation. A constant prediction
    gets scale 0 and the mean of the target as shift, an image without valid pixels gets 0 and 0.

    - [0]: MiDaS, 2020, https://arxiv.org/abs/1907.01341, eq. 4
    """
    prediction, target = prediction.where(valid, 0.0), target.where(valid, 0.0)
    mean_prediction, mean_target = masked_mean(prediction, valid), masked_mean(target, valid)
    centred = prediction - mean_prediction
    variance = masked_mean(centred.square(), valid)
    covariance = masked_mean(centred * (target - mean_target), valid)
    constant = variance <= 0
    scale = (covariance / variance.where(~constant, 1.0)).where(~constant, 0.0)
    return scale, mean_target - scale * mean_prediction
