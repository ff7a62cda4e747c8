"""When the state of training is saved: every n steps, at the end, and when asked to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, remove_half_checkpoints
from depth_anything_train.callbacks.interruption import Interruption
from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.internals import numbers_of_step, set_batches_done
from depth_anything_train.runtime import require_count
from depth_anything_train.tasks.steps import ends_step, has_row


class CheckpointEvery(Callback):
    """Save the whole state of training every `every_n_steps` steps, at the end, and when the run is asked to stop.

    Args:
        folder: the folder of the checkpoints.
        every_n_steps: optimiser steps between two checkpoints.
        interruption: tells whether to save and stop now.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int, interruption: Interruption) -> None:
        require_count("checkpoint.every_n_steps", every_n_steps)
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.interruption = interruption

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree with the other ranks as soon as they are there: a stop during start-up needs no start."""
        self.interruption.connect()
        self.interruption.agree_or_stop()
        if trainer.is_global_zero:
            remove_half_checkpoints(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle a request to stop that came while the state was being loaded."""
        self.interruption.agree_or_stop()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save after the optimiser's step, when weights, optimiser and step count agree."""
        if not ends_step(trainer):
            return
        _io(trainer).raise_if_failed()
        step, stops = trainer.global_step, self.interruption.agree()
        is_last = step == trainer.max_steps
        if stops or step % self.every_n_steps == 0 or is_last:
            self._write_row(trainer)
            trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        if stops:  # launchers end what is left when other ranks have gone, and one of them may be writing yet
            try:
                _io(trainer).wait()
            finally:
                self.interruption.agree()
        if not is_last:
            self.interruption.stop_if_agreed()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tell Lightning's loops where they are: they count batches, of which a step may now have more or fewer."""
        set_batches_done(checkpoint, checkpoint["global_step"] * trainer.accumulate_grad_batches)

    @staticmethod
    def _write_row(trainer: Trainer) -> None:
        """Record the step before its checkpoint: Lightning does so after, and a kill between would lose the row."""
        if has_row(trainer.global_step, trainer):
            for log in trainer.loggers:
                if isinstance(log, MetricsLog):
                    log.log_metrics(numbers_of_step(trainer), step=trainer.global_step - 1)


def _io(trainer: Trainer) -> SoundCheckpointIO:
    assert isinstance(trainer.strategy.checkpoint_io, SoundCheckpointIO)
    return trainer.strategy.checkpoint_io
