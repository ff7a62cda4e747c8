"""A progress bar with time left that counts optimiser steps, also after a resume."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from depth_anything_train.ops.async_scalar import AsyncScalar
from depth_anything_train.runtime import ProgressBar
from depth_anything_train.tasks.steps import ends_step


class StepProgress(Callback):
    """One bar for the run: steps done, time, time left, and the loss of the step before, which is ready.

    With several devices it is that of the first one alone; what is on record is of all.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: ProgressBar | None = None
        self.loss: AsyncScalar | None = None
        self.sum: Tensor | None = None  # of the losses of the step at hand, a part each

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step where the run continues."""
        if trainer.is_global_zero:
            self.bar = ProgressBar(self.description, trainer.max_steps, done=trainer.global_step).__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Advance to the current step."""
        if self.bar is None:
            return
        # Lightning has divided the loss of a part by their number.
        self.sum = outputs["loss"] if self.sum is None else self.sum + outputs["loss"]
        if ends_step(trainer):
            before, self.loss, self.sum = self.loss, AsyncScalar(self.sum), None
            ready = self.loss if before is None or trainer.global_step >= trainer.max_steps else before
            self.bar.advance(note=f"loss {ready.read():.3f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is readable."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.__exit__()
            self.bar = None
