"""Log what the losses and the task watch, at the steps that have a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from depth_anything_train.ops.gather import gather_objects
from depth_anything_train.ops.watch import watching
from depth_anything_train.tasks.steps import ends_step, has_row

PER_IMAGE = "per_image"
"""Losses of single images, which are logged as means over the images of each data set."""


class Watch(Callback):
    """Open a collector for the steps that are logged (`ops/watch.py`) and log what it saw, over all parts and ranks.

    A number becomes `train/NAME`; losses of single labelled images become `train/source/DATASET`.
    """

    def __init__(self) -> None:
        self.open = ExitStack()
        self.parts: list[dict[str, Tensor]] = []  # what was seen of the step at hand
        self.sources: list[str] = []  # of its images, where the loader knows them

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at this step, if it is logged."""
        if has_row(trainer.global_step + 1, trainer):
            self.parts.append(self.open.enter_context(watching()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what was seen in the step that ends here."""
        self.open.close()
        if not self.parts:
            return
        self.sources += batch.get("labelled", next(iter(batch.values()))).get("source", [])
        if not ends_step(trainer):
            return
        parts, sources = self.parts, self.sources
        self.parts, self.sources = [], []
        seen = {name: [part[name] for part in parts] for name in parts[0]}
        losses = seen.pop(PER_IMAGE, None)
        for name, values in seen.items():
            over = {"min": "min", "max": "max"}.get(name.rpartition("/")[2], "mean")
            value: Tensor = getattr(torch.stack(values).float(), over)()
            pl_module.log(f"train/{name}", value, reduce_fx=over, sync_dist=True)
        if losses and sum(map(len, losses)) == len(sources):
            for source, mean in mean_by_source(torch.cat(losses), sources).items():
                pl_module.log(f"train/source/{source}", mean)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop looking."""
        self.open.close()


def mean_by_source(losses: Tensor, sources: Sequence[str]) -> dict[str, float]:
    """Mean of the losses (B,) of each source's images, over all ranks; NaN is no loss. Waits for the device."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for source, loss in zip(sources, losses.tolist(), strict=True):
        if loss == loss:
            sums[source][0] += loss
            sums[source][1] += 1
    parts = gather_objects(dict(sums))
    names = sorted({name for part in parts for name in part})
    return {name: _mean([part[name] for part in parts if name in part]) for name in names}


def _mean(parts: list[list[float]]) -> float:
    return sum(total for total, _ in parts) / sum(count for _, count in parts)
