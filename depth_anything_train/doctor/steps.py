"""Can the model overfit one batch, how fast is a step, and how fast is the loader?"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.doctor.outcome import Outcome
from depth_anything_train.runtime import UserError
from depth_anything_train.tasks.base import Task

WARM_UP = 2
"""Steps whose time does not count."""


class Learning(pl.Callback):
    """Losses and times of every step; ends the run when the loss is below a share of the first."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.losses: list[float] = []
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Note this step."""
        self.losses.append(float(outputs["loss"]))
        self.times.append(time.perf_counter())
        trainer.should_stop = self.losses[-1] < self.share * self.losses[0] and len(self.losses) > WARM_UP

    @property
    def seconds(self) -> float:
        """Median seconds per step, without the first ones."""
        return statistics.median(end - start for start, end in itertools.pairwise(self.times[WARM_UP:]))


def learn(task: Task, batch: Any, *, steps: int, share: float, device: torch.device, precision: str) -> Learning:
    """Train on one batch again and again.

    Raises:
        UserError: `steps` is not larger than `WARM_UP`.
    """
    if steps <= WARM_UP:
        raise UserError(f"Expected overfit.steps of at least {WARM_UP + 1}, but got {steps}.")
    learning = Learning(share)
    trainer = pl.Trainer(
        max_steps=steps,
        min_steps=WARM_UP + 1,
        callbacks=[learning],
        logger=False,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader([batch] * steps, batch_size=None))  # type: ignore[arg-type]
    return learning


def check_overfit(learning: Learning) -> Outcome:
    """Whether the loss fell as far as it has to: a model that cannot learn one batch learns nothing."""
    first, lowest, steps = learning.losses[0], min(learning.losses), len(learning.losses)
    if not 0 < first < math.inf:
        return Outcome("overfit", "failed", f"the loss is {first:.3g} at first; look at the labels.")
    if diverged := [number for number, loss in enumerate(learning.losses, 1) if not math.isfinite(loss)]:
        found = f"the loss is {first:.3g} at first and {learning.losses[diverged[0] - 1]:.3g} in step {diverged[0]}"
        return Outcome("overfit", "failed", f"{found}; lower the learning rates.")
    found = f"loss {first:.3f} -> {lowest:.3f} ({lowest / first:.2f} of the first) on one batch in {steps} steps"
    if lowest < learning.share * first:
        return Outcome("overfit", "ok", found + ".")
    advice = f"expected below {learning.share}: raise overfit.steps or the learning rates, or look at the labels"
    return Outcome("overfit", "failed", f"{found}; {advice}.")


def check_speed(data: ShardDataModule, images: int, learning: Learning, in_batch: int, seconds: float) -> Outcome:
    """Speed of the loader compared with that of the step, in images per second.

    Args:
        data: what is loaded, `in_batch` images at a time.
        images: in the batch of `learning`.
        learning: says how long a step takes.
        in_batch: images in a batch of the recipe.
        seconds: for which the loader is timed, after its first batch.
    """
    batches = iter(data.loader(stop=sys.maxsize))
    next(batches)
    start, loaded = time.perf_counter(), 0
    while loaded == 0 or time.perf_counter() - start < seconds:
        next(batches)
        loaded += in_batch
    loader, step = loaded / (time.perf_counter() - start), images / learning.seconds
    found = f"loader {loader:.1f} images/s with workers={data.workers}, step {step:.1f} images/s"
    if loader < step:
        return Outcome(
            "speed",
            "warning",
            f"{found}: the loader holds the step up; raise workers= or data.cache_mb=, up to the cores.",
        )
    return Outcome("speed", "ok", f"{found}: the step is the bottleneck, as it should be.")
