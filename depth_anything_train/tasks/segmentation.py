"""Fine-tuning to semantic segmentation (V1 section 6): does the encoder serve other tasks than depth?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from depth_anything_train.data.schema import SEGMENTED
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.segmenter import Segmenter, SegmenterConfig, save_segmenter
from depth_anything_train.tasks.base import Task
from depth_anything_train.types import Batch, Scalar, SemanticBatch


class SegmentationTask(Task):
    """Mask2Former on the encoder of a depth model, whose own decoder is dropped.

    Args:
        model: a `DepthModel`, of which only the encoder is trained.
        num_classes: number of classes in the data set.
        decoder: the other settings of `SegmenterConfig`.
        masks: loss of (classes, masks, labels) with three names, weighted by `weights`.
        options: see `Task`.
    """

    model: Segmenter
    validated_on = SEGMENTED
    couples_images = True  # sums over masks, divided by the number of masks in all of them

    def __init__(
        self, model: DepthModel, *, num_classes: int, decoder: dict[str, int], masks: nn.Module, **options: Any
    ) -> None:
        config = SegmenterConfig(model.pretrained.config, num_classes=num_classes, **decoder)
        super().__init__(Segmenter(config, model.pretrained), **options)
        self.masks = masks

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        segmented: SemanticBatch = batch["segmented"]
        queries = self.model(self.to_model(segmented["image"]))
        return self.combine(self.masks(queries.classes, queries.masks, segmented["classes"]))

    def snapshot(self) -> Segmenter:
        """A copy of the model as it stands, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def save(self, folder: Path, model: Segmenter, record: Mapping[str, Any]) -> None:
        """Write the segmenter's folder."""
        save_segmenter(folder, model, record)
