"""Pre-training of a tiny encoder on the procedural world: what DINOv2 is to the large chain, this is to the small one.

The encoder learns which class each pixel shows and never sees a depth label, so that teacher, student and feature
alignment start from semantic priors alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F

from depth_anything_train.models.pretrained import save_encoder
from depth_anything_train.tasks.base import Task
from depth_anything_train.types import Scalar, SemanticBatch

NO_CLASS = 255
STRIDE = 4
"""Every fourth pixel is asked for: a patch of 14 pixels cannot say more, and full size would be bound by memory."""


class SemanticTask(Task):
    """Segmentation by one linear layer on the encoder's last features: all structure has to be in the encoder.

    Args:
        model: a `DepthModel`, of which only the encoder is trained.
        num_classes: classes of the world.
        options: see `Task`.
    """

    def __init__(self, model: nn.Module, *, num_classes: int, **options: Any) -> None:
        encoder = model.pretrained
        classifier = nn.Linear(encoder.config.embed_dim, num_classes)
        # The encoder keeps the name by which the optimiser's recipe knows encoders.
        super().__init__(nn.ModuleDict({"pretrained": encoder, "classifier": classifier}), **options)

    def training_step(self, batch: SemanticBatch, batch_idx: int) -> Scalar:
        """One step; returns the mean cross-entropy over labelled pixels."""
        image = self.to_model(batch["image"])
        classes = batch["classes"][:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        patches = self.model["pretrained"](image)  # (B, N, C)
        side = self.model["pretrained"].config.patch_size
        grid = image.shape[-2] // side, image.shape[-1] // side
        logits = self.model["classifier"](patches).float().transpose(1, 2).unflatten(2, grid)  # (B, classes, h, w)
        logits = F.interpolate(logits, classes.shape[-2:], mode="bilinear", align_corners=False)
        return self.combine({"semantic": F.cross_entropy(logits, classes.long(), ignore_index=NO_CLASS)})

    def export(self, folder: Path, extra: dict[str, Any]) -> None:
        """Write the encoder alone."""
        save_encoder(folder, self.model["pretrained"], extra)
