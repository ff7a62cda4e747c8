"""The loss that keeps the student's features close to those of the frozen encoder."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import cosine_similarity

from depth_anything_train.ops.masked import masked_mean
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.ops.watch import watch
from depth_anything_train.runtime import UserError
from depth_anything_train.types import Patches, Scalar


class FeatureAlignmentLoss(nn.Module):
    """One minus the cosine between student and frozen features, over the patches that differ by more than a tolerance.

    A patch whose cosine exceeds `margin` is near enough and not considered: a depth encoder needs room to tell apart
    the parts of an object that DINOv2 sees as one. Averaged over the remaining patches of an image (0 if none remain)
    and then over the images; without projector, after the final norm, without the class token (V1 section 3.3).

    - [0]: Depth Anything, 2024, https://arxiv.org/abs/2401.10891, eq. 9

    Args:
        margin: largest cosine that still counts; 1.0 means no tolerance.

    Raises:
        UserError: `margin` is no cosine, or -1, with which nothing would count.
    """

    def __init__(self, margin: float = 0.85) -> None:
        super().__init__()
        if not -1 < margin <= 1:
            raise UserError(f"Expected the margin of the feature alignment above -1 and up to 1, but got {margin}.")
        self.margin = margin

    @in_float32
    def forward(self, student: Patches, frozen: Patches) -> Scalar:
        """Both encoders have seen the same perturbed image; `frozen` gets no gradient."""
        # Rounding gives equal features 1 + 1e-7, which a margin of 1.0 would take for too near.
        cosine = cosine_similarity(student, frozen.detach(), dim=-1).clamp(max=1.0)
        considered = ~(cosine > self.margin)  # so that NaN is: broken features must not show as a small loss
        watch("patches_above_margin", lambda: (~considered).float().mean())
        return masked_mean(1 - cosine, considered).mean()
