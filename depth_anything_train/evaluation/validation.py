"""A model judged on labelled shards before and while it is trained; the best so far is kept beside the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.metrics_log import MetricsLog, read_metrics
from depth_anything_train.callbacks.steps import ends_step
from depth_anything_train.data.schema import Record
from depth_anything_train.evaluation.distributed import Ranks
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.labelled import Records
from depth_anything_train.inference.preprocess import Size
from depth_anything_train.metrics.protocol import Protocol
from depth_anything_train.models.checkpoints import save_model
from depth_anything_train.runtime import UserError, console

MEASURE = "abs_rel"
SHOWN = (MEASURE, "delta1")


class Validation(Callback):
    """Judge at step 0, every `every_n_steps` steps and at the end; `validation/metrics.jsonl` has a row for each.

    All ranks judge, each its share of the images, and a copy of the model: whole where its weights are shared out, not
    compiled, and in eval mode. The numbers are those of `evaluate`, and the model of the smallest AbsRel is kept in
    `best/`.

    Args:
        run: folder of the run.
        data: labelled shards by name, none of which is trained on.
        protocol: how an image is judged.
        size: at which the network sees an image, as `preprocess.network_size`.
        every_n_steps: optimiser steps between two.
        limit: at most so many images of each folder, evenly spread.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        data: Mapping[str, Records],
        protocol: Protocol,
        size: Size,
        every_n_steps: int,
        limit: int | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise UserError(f"Expected validate.every_n_steps >= 1, got {every_n_steps}.")
        self.run, self.protocol, self.size, self.every_n_steps = Path(run), protocol, size, every_n_steps
        self.data = {name: EvenlySpread(records, limit) for name, records in data.items()}
        self.rows = MetricsLog(self.run / "validation")

    def continue_from(self, step: int) -> None:
        """Forget what was judged behind `step`."""
        self.rows.continue_from(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what training starts from."""
        if trainer.global_step == 0:
            self._judge(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Judge after the optimiser's step."""
        step = trainer.global_step
        if ends_step(trainer) and (step % self.every_n_steps == 0 or step == trainer.max_steps):
            self._judge(trainer, pl_module)

    def _judge(self, trainer: Trainer, task: Any) -> None:
        """Every rank must call it.

        Raises:
            UserError: not one image could be judged.
        """
        model = DepthAnything(task.snapshot(), size=self.size, device=task.device)
        ranks = Ranks(trainer.global_rank, trainer.world_size)
        results = evaluate(model, self.data, self.protocol, ranks=ranks, shown=False)
        if not ranks.first:
            return
        step, measures = trainer.global_step, {"images": len(results.images), **results.mean()}
        best = min((row[MEASURE] for row in read_metrics(self.rows.path)), default=float("inf"))
        if measures[MEASURE] < best:  # the model before its row: a row never promises what is not there
            about = {**task.record, "steps": step, "validation": {**measures, "protocol": self.protocol.to_dict()}}
            save_model(self.run / "best", model.model, about)
        self.rows.log_metrics(measures, step=step - 1)
        shown = ", ".join(f"{name} {measures[name]:.4f}" for name in SHOWN)
        note = " (best so far)" if measures[MEASURE] < best else ""
        console.print(f"{self.run.name}, step {step}: {shown} on {measures['images']} images{note}.")


@dataclass(frozen=True)
class EvenlySpread:
    """At most `limit` of the records, at even distances; all of them if it is None."""

    records: Records
    limit: int | None

    def __len__(self) -> int:
        return len(self.records) if self.limit is None else min(self.limit, len(self.records))

    def __getitem__(self, index: int, /) -> Record:
        return self.records[index * len(self.records) // len(self)]
