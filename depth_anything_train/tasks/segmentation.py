"""Fine-tuning to semantic segmentation (V1 section 6): does the encoder serve other tasks than depth?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depth_anything_train.data.schema import SEGMENTED
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.segmenter import Segmenter, SegmenterConfig, save_segmenter
from depth_anything_train.runtime import keyed_seed
from depth_anything_train.tasks.base import Task
from depth_anything_train.types import Batch, Scalar, SemanticBatch


class SegmentationTask(Task):
    """Mask2Former on the encoder of a depth model, whose own decoder is dropped.

    Args:
        model: a `DepthModel`, of which only the encoder is trained.
        num_classes: number of classes in the data set.
        decoder: the other settings of `SegmenterConfig`.
        masks: loss of (classes, masks, labels) with three names, weighted by `weights`.
        seed: of the run; the loss draws the points at which it compares masks.
        options: see `Task`.
    """

    model: Segmenter
    validated_on = SEGMENTED
    couples_images = True  # sums over masks, divided by the number of masks in all of them

    def __init__(
        self,
        model: DepthModel,
        *,
        num_classes: int,
        decoder: dict[str, int],
        masks: nn.Module,
        seed: int,
        **options: Any,
    ) -> None:
        config = SegmenterConfig(model.pretrained.config, num_classes=num_classes, **decoder)
        super().__init__(Segmenter(config, model.pretrained), **options)
        self.masks, self.seed = masks, seed

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        segmented: SemanticBatch = batch["segmented"]
        queries = self.model(self.to_model(segmented["image"]))
        with self._points_of(batch_idx):
            losses = self.masks(queries.classes, queries.masks, segmented["classes"])
        return self.combine(losses)

    @contextmanager
    def _points_of(self, batch_idx: int) -> Iterator[None]:
        """Let what is drawn depend on the step and the share of its images alone.

        How many numbers the loss draws depends on the masks: the generators of several devices would part in the first
        step, and a checkpoint has only one for all of them.
        """
        parts = self.trainer.accumulate_grad_batches
        share = self.trainer.global_rank * parts + batch_idx % parts
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(keyed_seed(self.seed, "points", self.trainer.global_step, share))
            yield

    def snapshot(self) -> Segmenter:
        """A copy of the model as it stands, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def save(self, folder: Path, model: Segmenter, record: Mapping[str, Any]) -> None:
        """Write the segmenter's folder."""
        save_segmenter(folder, model, record)
