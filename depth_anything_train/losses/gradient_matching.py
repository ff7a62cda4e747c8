"""The loss of Depth Anything V2 that asks for sharp edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depth_anything_train.ops.alignment import robust_normalize
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.types import Disparity, Scalar, Valid


class GradientMatchingLoss(nn.Module):
    """Absolute differences between neighbours of the normalised residual map, at several scales.

    The maps are normalised as in `AffineInvariantLoss`. A scale takes every second pixel of the one before; at each,
    a difference counts where both neighbours are valid, and the sum over both directions is divided by the number of
    valid pixels. Scales are summed, images averaged.

    - [0]: MiDaS, 2020, https://arxiv.org/abs/1907.01341, eq. 11
    - [1]: Depth Anything V2, 2024, https://arxiv.org/abs/2406.09414, sec. 7.1 (weight 2.0)

    Args:
        scales: number of scales.
        weight: factor on the result.
    """

    def __init__(self, scales: int = 4, weight: float = 2.0) -> None:
        super().__init__()
        self.scales, self.weight = scales, weight

    @in_float32
    def forward(self, pred: Disparity, target: Disparity, valid: Valid) -> Scalar:
        """Compare at the label's size; what stands at invalid pixels does not matter, NaN included."""
        residual = robust_normalize(pred, valid) - robust_normalize(target, valid)
        steps = [2**scale for scale in range(self.scales)]
        terms = [_roughness(residual[..., ::step, ::step], valid[..., ::step, ::step]) for step in steps]
        return self.weight * torch.stack(terms).sum(dim=0).mean()


def _roughness(x: Tensor, valid: Tensor) -> Tensor:
    """Sum of absolute differences of valid neighbours over the number of valid pixels, (B, 1, H, W) to (B,)."""
    total = x.new_zeros(len(x))
    for axis in (-2, -1):
        pair = valid.narrow(axis, 1, valid.shape[axis] - 1) & valid.narrow(axis, 0, valid.shape[axis] - 1)
        total = total + x.diff(dim=axis).abs().where(pair, 0.0).sum(dim=(1, 2, 3))
    return total / valid.sum(dim=(1, 2, 3)).clamp(min=1)
