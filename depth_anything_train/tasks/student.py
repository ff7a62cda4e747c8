"""Stage 2: the student learns from labels and pseudo labels under strong perturbations (V1 sections 3.2, 3.3)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.flops import count_flops
from depth_anything_train.models.frozen import Frozen
from depth_anything_train.ops.watch import watch_range
from depth_anything_train.runtime import UserError, require_choice
from depth_anything_train.tasks.base import DepthTask, check_gradient, supervised_losses
from depth_anything_train.types import Batch, Scalar, Valid

FeatureOn = Literal["labelled", "unlabelled"]
"""Which images are compared with the frozen encoder's."""


class StudentTask(DepthTask):
    """Named losses: labelled, pseudo-labelled, and alignment of features with a frozen encoder.

    The strong perturbation and CutMix were applied by the loader, to image and pseudo label alike; the frozen encoder
    sees the same perturbed image as the student, so that patches correspond.

    Args:
        model: a `DepthModel`, its encoder freshly initialised (not from the teacher).
        frozen_encoder: the encoder as it was before training, same size (without pre-trained weights another random
            one); never trained, never in a checkpoint.
        labelled: loss of (prediction, disparity, valid); None where there are no labelled images (V2).
        pseudo: loss of (prediction, disparity, valid, region).
        feature: loss of (student's patches, frozen patches); None, with no frozen encoder, leaves it out.
        gradient: loss of both kinds of images, on edges (V2 section 7.1); None in V1.
        feature_on: the images it compares: `unlabelled`, as the paper does, or `labelled` (V1 table 13).
        options: see `Task`.

    Raises:
        UserError: `feature_on` is another word, one of `feature` and `frozen_encoder` is without the other, or as
            `check_gradient`.
    """

    def __init__(
        self,
        model: DepthModel,
        *,
        frozen_encoder: nn.Module | None,
        labelled: nn.Module | None,
        pseudo: nn.Module,
        feature: nn.Module | None,
        gradient: nn.Module | None = None,
        feature_on: FeatureOn = "unlabelled",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        require_choice("feature_on", feature_on, get_args(FeatureOn))
        if (feature is None) != (frozen_encoder is None):
            raise UserError(
                "Expected task.feature and task.frozen_encoder, or neither; ablation=no_feature_alignment has neither."
            )
        check_gradient(gradient, self.weights)
        self.labelled, self.pseudo, self.gradient = labelled, pseudo, gradient
        self.feature, self.feature_on = feature, feature_on
        self.frozen_encoder = Frozen(frozen_encoder) if frozen_encoder is not None else None

    def on_fit_start(self) -> None:
        """On a GPU in bfloat16 the frozen encoder's weights are so too: half the memory, and no cast in every step."""
        if self.frozen_encoder is not None and self.device.type == "cuda" and self.trainer.precision == "bf16-mixed":
            self.frozen_encoder.to(torch.bfloat16)

    def count_flops(self, batch: Batch) -> int:
        """Those of the model on all images, and of the frozen encoder on those that it sees."""
        sizes = {name: len(part["image"]) for name, part in batch.items()}
        flops = count_flops(self.model.config, *batch["unlabelled"]["image"].shape[-2:])
        frozen = flops.encoder * sizes[self.feature_on] if self.frozen_encoder is not None else 0
        return sum(sizes.values()) * flops.training + frozen

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss.

        Raises:
            UserError: the data have labelled images and the task no loss for them, or the other way round, or not the
                images that features are aligned on.
        """
        if ("labelled" in batch) != (self.labelled is not None):
            raise UserError("Expected labelled images and task.labelled, or neither; choose task= and data= together.")
        if self.feature is not None and self.feature_on not in batch:
            raise UserError(
                f"Expected {self.feature_on} images to align features on, but the data have {[*batch]} alone."
            )
        image = self.to_model(torch.cat([part["image"] for part in batch.values()]))
        prediction, patches = self.model.forward_features(image)  # (B, 1, H, W), (B, N, C)
        watch_range("disparity", prediction)

        sizes = [len(part["image"]) for part in batch.values()]
        predictions = dict(zip(batch, prediction.split(sizes), strict=True))
        losses: dict[str, Scalar] = {}
        if self.labelled is not None:
            maps = predictions["labelled"], batch["labelled"]["disparity"], batch["labelled"]["valid"]
            losses |= supervised_losses("labelled", self.labelled, self.gradient, *maps)
        maps = predictions["unlabelled"], *(batch["unlabelled"][name] for name in ("disparity", "valid", "region"))
        losses |= supervised_losses("pseudo", self.pseudo, self.gradient, *maps)
        if self.feature is not None and self.frozen_encoder is not None:
            at = [*batch].index(self.feature_on)
            student, frozen = patches.split(sizes)[at], self.frozen_encoder(image.split(sizes)[at])
            # An image that could not be read is black and has no label: compared with itself it adds nothing here too.
            valid = batch[self.feature_on]["valid"]
            region = batch[self.feature_on].get("region", torch.ones_like(valid))
            readable = readable_patches(valid, region, self.model.config.encoder.patch_size)
            losses["feature"] = self.feature(student, torch.where(readable, frozen, student.detach()))
        return self.combine(losses)


def readable_patches(valid: Valid, region: Valid, patch_size: int) -> Tensor:
    """Patches that show nothing of an image that could not be read, which has no valid place; (B, N, 1).

    CutMix brings pieces of such an image into its partner, and the other way round. A piece of a sound image counts as
    unreadable, too, where it shows nothing that has a label.
    """
    own, pasted = ((valid & part).flatten(1).any(dim=1)[:, None, None, None] for part in (region, ~region))
    unreadable = torch.where(region, ~own, ~pasted)
    return max_pool2d(unreadable.float(), patch_size).flatten(1)[..., None] == 0
