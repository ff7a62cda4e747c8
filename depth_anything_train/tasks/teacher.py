"""Stage 1: the teacher learns relative inverse depth from labelled images (V1 section 3.1)."""

from __future__ import annotations

from typing import Any

from torch import nn

from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.ops.watch import watch_range
from depth_anything_train.tasks.base import DepthTask
from depth_anything_train.types import LabelledBatch, Scalar


class TeacherTask(DepthTask):
    """Affine-invariant loss on labelled images, nothing else.

    Args:
        model: a `DepthModel`.
        labelled: loss of (prediction, disparity, valid).
        options: see `Task`.
    """

    def __init__(self, model: DepthModel, *, labelled: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self.labelled = labelled

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        prediction = self.model(self.to_model(batch["image"]))
        watch_range("disparity", prediction)
        return self.combine({"labelled": self.labelled(prediction, batch["disparity"], batch["valid"])})
