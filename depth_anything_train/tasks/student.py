"""Stage 2: the student learns from labels and pseudo labels under strong perturbations (V1 sections 3.2, 3.3)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.flops import count_flops, on_meta
from depth_anything_train.models.frozen import Frozen
from depth_anything_train.ops.watch import watch_range
from depth_anything_train.runtime import UserError
from depth_anything_train.tasks.base import DepthTask
from depth_anything_train.types import Scalar, StudentBatch

FeatureOn = Literal["labelled", "unlabelled"]
"""Which images are compared with the frozen encoder's."""


class StudentTask(DepthTask):
    """Mean of three losses: labelled, pseudo-labelled, and alignment of features with a frozen encoder.

    The strong perturbation and CutMix were applied by the loader, to image and pseudo label alike; the frozen encoder
    sees the same perturbed image as the student, so that patches correspond.

    Args:
        model: a `DepthModel`, its encoder freshly initialised (not from the teacher).
        frozen_encoder: the encoder as it was before training, same size; never trained, never in a checkpoint.
            Without one there is no feature loss.
        labelled: loss of (prediction, disparity, valid).
        pseudo: loss of (prediction, disparity, valid, region).
        feature: loss of (student's patches, frozen patches).
        feature_on: the images it compares: `unlabelled`, as the paper does, or `labelled` (V1 table 13).
        options: see `Task`.

    Raises:
        UserError: `feature_on` is another word.
    """

    def __init__(
        self,
        model: DepthModel,
        *,
        frozen_encoder: nn.Module | None,
        labelled: nn.Module,
        pseudo: nn.Module,
        feature: nn.Module | None,
        feature_on: FeatureOn = "unlabelled",
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if feature_on not in get_args(FeatureOn):
            raise UserError(f"Expected feature_on to be labelled or unlabelled, got {feature_on!r}.")
        self.labelled, self.pseudo, self.feature, self.feature_on = labelled, pseudo, feature, feature_on
        self.frozen_encoder = Frozen(frozen_encoder) if frozen_encoder is not None else None

    def on_fit_start(self) -> None:
        """On a GPU in bfloat16 the frozen encoder's weights are so too: half the memory, and no cast in every step."""
        if self.frozen_encoder is not None and self.device.type == "cuda" and self.trainer.precision == "bf16-mixed":
            self.frozen_encoder.to(torch.bfloat16)

    def count_flops(self, batch: StudentBatch) -> int:
        """Those of the model on all images, and of the frozen encoder on the unlabelled ones."""
        unlabelled, _, height, width = batch["unlabelled"]["image"].shape
        flops = count_flops(on_meta(self.model), height, width)
        frozen = flops.encoder if self.frozen_encoder is not None else 0
        return (len(batch["labelled"]["image"]) + unlabelled) * flops.training + unlabelled * frozen

    def training_step(self, batch: StudentBatch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        num_labelled = len(labelled["image"])
        image = self.to_model(torch.cat([labelled["image"], unlabelled["image"]]))
        prediction, patches = self.model.forward_features(image)  # (B, 1, H, W), (B, N, C)
        watch_range("disparity", prediction)
        losses = {
            "labelled": self.labelled(prediction[:num_labelled], labelled["disparity"], labelled["valid"]),
            "pseudo": self.pseudo(
                prediction[num_labelled:], unlabelled["disparity"], unlabelled["valid"], unlabelled["region"]
            ),
        }
        if self.feature is not None and self.frozen_encoder is not None:
            part = slice(num_labelled) if self.feature_on == "labelled" else slice(num_labelled, None)
            student, frozen = patches[part], self.frozen_encoder(image[part])
            # An image that could not be read is black and has no label: compared with itself it adds nothing here too.
            readable = batch[self.feature_on]["valid"].flatten(1).any(dim=1)[:, None, None]
            losses["feature"] = self.feature(student, torch.where(readable, frozen, student.detach()))
        return self.combine(losses)
