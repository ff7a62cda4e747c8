"""The loss on labelled images: disparity up to scale and shift."""

from __future__ import annotations

import torch
from torch import nn

from depth_anything_train.ops.alignment import aligned_residual
from depth_anything_train.ops.masked import masked_mean
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.ops.watch import watch
from depth_anything_train.types import Disparity, Scalar, Valid


class AffineInvariantLoss(nn.Module):
    """Mean absolute error after each map is normalised by its own median and mean absolute deviation.

    Averaged over the valid pixels of each image first and over the images second, so that a sparse label counts as
    much as a dense one. The second average divides by all B images, also by those without a valid pixel, which add
    exactly nothing; hence the mean over ranks of equal batches is the mean over all their images. Computed in float32
    under autocast; the gradient flows through the prediction's median and deviation.

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891, eq. 1-3
    """

    @in_float32
    def forward(self, pred: Disparity, target: Disparity, valid: Valid) -> Scalar:
        """Compare at the label's size; what stands at invalid pixels does not matter, NaN included."""
        residual = aligned_residual(pred, target, valid).abs()
        each = masked_mean(residual, valid).flatten()
        watch("per_image", lambda: each.where(valid.flatten(1).any(dim=1), torch.nan))
        return each.mean()
