"""When the state of training is saved: every n steps, before each validation, at the end, and when asked to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, remove_leftovers
from depth_anything_train.callbacks.interruption import Interruption
from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.callbacks.steps import ends_step, has_row
from depth_anything_train.runtime import UserError


class CheckpointEvery(Callback):
    """Save the whole state of training every `every_n_steps` steps, at the end, and when the run is asked to stop.

    A validation is part of the step before it. It may take long, so the state is saved before it; a run that continues
    from there validates first. (After the last step Lightning would not, so that one is saved behind its validation.)

    Args:
        folder: of the checkpoints.
        every_n_steps: optimiser steps between two.
        interruption: tells whether to save and stop now.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int, interruption: Interruption) -> None:
        if every_n_steps < 1:
            raise UserError(f"Expected checkpoint.every_n_steps to be at least 1, but came {every_n_steps}.")
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.interruption = interruption
        self._validates = False  # the step whose state is saved ends with a validation
        self._shared = 0.0  # batches of this validation that every rank has

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree with the other ranks as soon as they are there: a stop during start-up needs no start."""
        self.interruption.connect()
        self.interruption.check()
        if trainer.is_global_zero:
            remove_leftovers(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What came while the state was being loaded counts too."""
        self.interruption.check()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save after the optimiser's step, when weights, optimiser and step count agree."""
        if not ends_step(trainer):
            return
        _io(trainer).look()
        step, stops = trainer.global_step, self.interruption.agree()
        loop = trainer.fit_loop
        self._validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
        is_last = step == trainer.max_steps
        if stops or step % self.every_n_steps == 0 or is_last or self._validates:
            self._write_row(trainer)
            if not (is_last and self._validates):
                self._save(trainer)
        if not is_last:
            self.interruption.check_agreed()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ranks may have unequal numbers of batches, and they can only agree while all of them are at it."""
        batches = self.interruption.smallest(sum(trainer.fit_loop.epoch_loop.val_loop.max_batches))
        self._shared = batches if trainer.world_size == 1 or batches < math.inf else 0

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Leave in the middle, if asked to: the state is saved already."""
        self._shared -= 1
        if self._shared >= 0:
            self.interruption.check()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, which waited for its validation."""
        if trainer.global_step == trainer.max_steps and not trainer.sanity_checking:
            self._validates = False
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:08d}.ckpt")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say whether a validation comes next."""
        checkpoint["validates"] = self._validates

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell Lightning's loops where they are.

        They count batches, of which a step may have another number than before. And what comes next may be a
        validation: they go back to one of which a batch was begun.
        """
        loops = checkpoint["loops"]["fit_loop"]
        done = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for count in ("total", "current"):
            progress = loops["epoch_loop.batch_progress"][count]
            open_hooks = progress["processed"] - progress["completed"]
            progress.update(ready=done, started=done, processed=done, completed=done - open_hooks)
        if checkpoint.get("validates"):
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            loops["epoch_loop.val_loop.batch_progress"].update(total=dict(begun), current=dict(begun))
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # it counts the step once more behind that

    @staticmethod
    def _write_row(trainer: Trainer) -> None:
        """Record the step before its checkpoint: Lightning does so after, and a kill between would lose the row."""
        if has_row(trainer.global_step, trainer):
            for log in trainer.loggers:
                if isinstance(log, MetricsLog):
                    numbers = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
                    log.log_metrics(numbers, step=trainer.global_step - 1)


def _io(trainer: Trainer) -> SoundCheckpointIO:
    assert isinstance(trainer.strategy.checkpoint_io, SoundCheckpointIO)
    return trainer.strategy.checkpoint_io
