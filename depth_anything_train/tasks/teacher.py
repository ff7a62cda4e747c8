"""Stage 1: the teacher learns relative inverse depth from labelled images (V1 section 3.1)."""

from __future__ import annotations

from typing import Any

from torch import nn

from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.ops.watch import watch_range
from depth_anything_train.tasks.base import DepthTask, check_gradient, supervised_losses
from depth_anything_train.types import Batch, LabelledBatch, Scalar


class TeacherTask(DepthTask):
    """Affine-invariant loss on labelled images; V2 asks for sharp edges beside it.

    Args:
        model: a `DepthModel`.
        labelled: loss of (prediction, disparity, valid).
        gradient: another one, on edges (V2 section 7.1); None in V1.
        options: see `Task`.

    Raises:
        UserError: as `check_gradient`.
    """

    def __init__(
        self, model: DepthModel, *, labelled: nn.Module, gradient: nn.Module | None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        check_gradient(gradient, self.weights)
        self.labelled, self.gradient = labelled, gradient

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        labelled: LabelledBatch = batch["labelled"]
        prediction = self.model(self.to_model(labelled["image"]))
        watch_range("disparity", prediction)
        maps = prediction, labelled["disparity"], labelled["valid"]
        return self.combine(supervised_losses("labelled", self.labelled, self.gradient, *maps))
