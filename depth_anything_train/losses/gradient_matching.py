"""The loss of Depth Anything V2 that asks for sharp edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depth_anything_train.ops.alignment import aligned_residual
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.runtime import require_count
from depth_anything_train.types import Disparity, Scalar, Valid


class GradientMatchingLoss(nn.Module):
    """Absolute differences between neighbours of the normalised residual map, at several scales.

    The maps are normalised as in `AffineInvariantLoss`, or inside each CutMix region as in `PseudoLabelLoss`; no pixel
    is left out there (V2 does not say). A scale takes every second pixel of the one before; at each, a difference
    counts where both neighbours are valid and of one region, and the sum over both directions is divided by the number
    of valid pixels. Scales are summed, images averaged.

    - [0]: MiDaS, 2020, https://arxiv.org/abs/1907.01341, eq. 11
    - [1]: Depth Anything V2, 2024, https://arxiv.org/abs/2406.09414, sec. 7.1

    Args:
        scales: number of scales.

    Raises:
        UserError: `scales` is no whole number of at least 1.
    """

    def __init__(self, scales: int = 4) -> None:
        super().__init__()
        require_count("gradient.scales", scales)
        self.scales = scales

    @in_float32
    def forward(self, pred: Disparity, target: Disparity, valid: Valid, region: Valid | None = None) -> Scalar:
        """Compare at the label's size; what stands at invalid pixels does not matter, NaN included.

        `region` is True where a pixel is the image's own and False where CutMix pasted the partner; None is one region.
        """
        part = valid.to(torch.uint8)  # 0 invalid, 1 all there is or the partner's, 2 the image's own
        if region is None:
            residual = aligned_residual(pred, target, valid)
        else:
            part = part * (1 + region.to(torch.uint8))
            residual = aligned_residual(pred, target, part == 1, part == 2)
        steps = [2**scale for scale in range(self.scales)]
        terms = [_roughness(residual[..., ::step, ::step], part[..., ::step, ::step]) for step in steps]
        return torch.stack(terms).sum(dim=0).mean()


def _roughness(x: Tensor, part: Tensor) -> Tensor:
    """Sum of absolute differences of neighbours of one part over the number of valid pixels, (B, 1, H, W) to (B,)."""
    total = x.new_zeros(len(x))
    for axis in (-2, -1):
        pair = (part.diff(dim=axis) == 0) & (part.narrow(axis, 1, part.shape[axis] - 1) > 0)
        total = total + x.diff(dim=axis).abs().where(pair, 0.0).sum(dim=(1, 2, 3))
    return total / (part > 0).sum(dim=(1, 2, 3)).clamp(min=1)
