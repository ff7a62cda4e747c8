"""Pre-training of a tiny encoder on the procedural world: the small chain's counterpart of DINOv2.

The encoder learns which class each pixel shows and never sees a depth label, so that teacher, student and feature
alignment start from semantic priors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from depth_anything_train.data.schema import NO_CLASS
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.models.encoder_weights import save_encoder
from depth_anything_train.ops.masked import masked_mean
from depth_anything_train.tasks.base import Task
from depth_anything_train.types import Batch, Image, Scalar, SemanticBatch

STRIDE = 4
"""Every fourth pixel is asked for: a patch of 14 pixels cannot say more, and full size would be bound by memory."""


class SemanticModel(nn.Module):
    """An encoder and one linear layer; the encoder keeps the name by which the optimiser's recipe knows encoders."""

    def __init__(self, encoder: DinoV2Encoder, num_classes: int) -> None:
        super().__init__()
        self.pretrained = encoder
        self.classifier = nn.Linear(encoder.config.embed_dim, num_classes)

    def forward(self, image: Image) -> Tensor:
        """Class scores per patch, (B, classes, h, w) float32."""
        side = self.pretrained.config.patch_size
        grid = image.shape[-2] // side, image.shape[-1] // side
        return self.classifier(self.pretrained(image)).float().transpose(1, 2).unflatten(2, grid)


class SemanticTask(Task):
    """Segmentation by one linear layer on the encoder's last features: all structure has to be in the encoder.

    Args:
        model: a `DepthModel`, of which only the encoder is trained.
        num_classes: classes of the world.
        options: see `Task`.
    """

    model: SemanticModel

    def __init__(self, model: DepthModel, *, num_classes: int, **options: Any) -> None:
        super().__init__(SemanticModel(model.pretrained, num_classes), **options)

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the mean cross-entropy over the labelled pixels of an image, and over the images.

        Over pixels at once, a rank with few of them would weigh as much as one with many.
        """
        semantic: SemanticBatch = batch["semantic"]
        classes = semantic["classes"][:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        scores = self.model(self.to_model(semantic["image"]))
        scores = F.interpolate(scores, classes.shape[-2:], mode="bilinear", align_corners=False)
        # Of (B, K, H, W) torch has no deterministic gradient on a GPU.
        rows, target = scores.movedim(1, -1).flatten(0, 2), classes.long().flatten()
        loss = F.cross_entropy(rows, target, ignore_index=NO_CLASS, reduction="none").view(classes.shape)
        return self.combine({"semantic": masked_mean(loss, classes != NO_CLASS).mean()})

    def save(self, folder: Path, model: SemanticModel, record: Mapping[str, Any]) -> None:
        """Write the encoder alone."""
        save_encoder(folder, model.pretrained, record)
