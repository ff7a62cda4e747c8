"""Checkpoints that a kill at any moment cannot harm.

A checkpoint is streamed to a temporary file beside its target, flushed, renamed; then its size and hash are written
to `<name>.json` the same way. That small file is the only mark of a finished checkpoint, and what it says is checked
before a run continues: the newest sound checkpoint wins, a torn one is passed over with a message.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any, cast

import torch
import xxhash
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.interruption import Interruption
from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.runtime import UserError, atomic_writer, console, read_json, write_json

NAME = re.compile(r"step-(\d{8})\.ckpt")


class SoundCheckpointIO(CheckpointIO):
    """Lightning's way to disk, made safe: streamed, flushed, renamed, hashed; read with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint, then its mark."""
        path = Path(path)
        with atomic_writer(path) as file:
            stream = _HashingStream(file)
            torch.save(checkpoint, cast(IO[bytes], stream))
        write_json(path.with_suffix(".json"), {"bytes": stream.size, "xxh3": stream.hash.hexdigest()})

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; code inside it is never run.

        Raises:
            UserError: the file is missing or torn.
        """
        if not is_sound(Path(path)):
            raise UserError(f"{path} is missing, torn or without its .json beside it; use another checkpoint.")
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, its mark first."""
        Path(path).with_suffix(".json").unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


class CheckpointEvery(Callback):
    """Save the whole state of training every `every_n_steps` steps, at the end, and when the run is asked to stop.

    Args:
        folder: of the checkpoints.
        every_n_steps: optimiser steps between two.
        keep: how many of the newest stay.
        interruption: tells whether to save and stop now.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int, interruption: Interruption, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise UserError(f"checkpoint.every_n_steps and .keep must be >= 1, got {every_n_steps} and {keep}.")
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep
        self.interruption = interruption

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Be ready for signals; what came while the run was starting counts too."""
        self.interruption.listen()
        self.interruption.connect()
        trainer.should_stop = self.interruption.agree()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save after the optimiser's step, when weights, optimiser and step count agree."""
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        step = trainer.global_step
        trainer.should_stop = self.interruption.agree()
        if trainer.should_stop or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._write_row(trainer)
            trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
            if trainer.is_global_zero:
                for path in checkpoints(self.folder)[: -self.keep]:
                    SoundCheckpointIO().remove_checkpoint(path)

    @staticmethod
    def _write_row(trainer: Trainer) -> None:
        """Record the step before its checkpoint: Lightning does so after, and a kill between would lose the row."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            for log in trainer.loggers:
                if isinstance(log, MetricsLog):
                    numbers = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
                    log.log_metrics(numbers, step=trainer.global_step - 1)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint files of a folder, oldest first, sound or not."""
    return sorted(path for path in Path(folder).glob("step-*.ckpt") if NAME.fullmatch(path.name))


def newest_sound_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose size and hash are what its mark says, or None."""
    for path in reversed(checkpoints(folder)):
        if is_sound(path):
            return path
        console.print(f"{path.name} is torn or unfinished; looking for an older checkpoint.")
    return None


def is_sound(path: Path) -> bool:
    """Whether a checkpoint's bytes are what its mark says."""
    mark = path.with_suffix(".json")
    if not path.is_file() or not mark.is_file():
        return False
    try:
        expected = read_json(mark, keys=("bytes", "xxh3"))
    except UserError:
        return False
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return path.stat().st_size == expected["bytes"] and digest.hexdigest() == expected["xxh3"]


class _HashingStream:
    """A file that is only written to, front to back, and hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.hash = file, 0, xxhash.xxh3_128()

    def write(self, block: Any) -> int:
        self.hash.update(block)
        count = self.file.write(block)
        self.size += count
        return count

    def flush(self) -> None:
        self.file.flush()
