"""The loss on pseudo-labelled images, which CutMix may have pasted together from two."""

from __future__ import annotations

from torch import nn

from depth_anything_train.ops.alignment import aligned_residual
from depth_anything_train.ops.masked import masked_mean, masked_quantile
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.ops.watch import watch
from depth_anything_train.runtime import UserError
from depth_anything_train.types import Disparity, Scalar, Valid


class PseudoLabelLoss(nn.Module):
    """Affine-invariant loss inside each CutMix region, without the pixels that fit worst.

    The two regions come from two images, so each has its own median and deviation. Their residuals form one map, whose
    mean is the area-weighted sum of the two regions' losses (eq. 8). Of each image's map the largest `trim` share is
    left out, as teacher mistakes. Averaging, precision and invalid pixels are as in `AffineInvariantLoss`.

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891, eq. 5-8
    - [1]: Depth Anything V2, 2024, https://arxiv.org/abs/2406.09414, sec. 5.2 (the trimming, "same as V1")

    Args:
        trim: share of the valid pixels of an image to leave out, in [0, 0.5]; 0 keeps all.

    Raises:
        UserError: `trim` is out of range.
    """

    def __init__(self, trim: float = 0.1) -> None:
        super().__init__()
        if not 0 <= trim <= 0.5:
            raise UserError(f"Expected trim in [0, 0.5], but got {trim}; the paper's value is 0.1.")
        self.trim = trim

    @in_float32
    def forward(self, pred: Disparity, target: Disparity, valid: Valid, region: Valid) -> Scalar:
        """`region` is True where a pixel is the image's own and False where the partner was pasted."""
        residual = aligned_residual(pred, target, valid & region, valid & ~region).abs()
        kept = valid
        if self.trim > 0:
            # Turned round, so that NaN is kept: a broken prediction must not show as a small loss.
            kept = valid & ~(residual > masked_quantile(residual, valid, 1 - self.trim))
        watch("trimmed_pixels", lambda: masked_mean((~kept).float(), valid).mean())
        return masked_mean(residual, kept).mean()
