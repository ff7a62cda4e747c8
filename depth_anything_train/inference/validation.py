"""A model judged on labelled shards before and while it is trained; the best so far is kept beside the last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.metrics_log import MetricsLog, read_metrics
from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.labelled import Records, Sample, read_sample
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.inference.preprocess import Size, prepare, resize_map
from depth_anything_train.metrics.protocol import Protocol, evaluate_image
from depth_anything_train.models.checkpoints import save_model
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.runtime import UserError, console

MEASURE = "abs_rel"
SHOWN = (MEASURE, "delta1")


class Validation(Callback):
    """Judge at step 0, every `every_n_steps` steps and at the end; `validation/metrics.jsonl` has a row for each.

    The model of the smallest AbsRel is kept in `best/`. Rank zero judges, the others wait for it at their next step.

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
        self.chosen = [(name, records, i) for name, records in data.items() for i in _spread(len(records), limit)]
        self.rows = MetricsLog(self.run / "validation")

    def continue_from(self, step: int) -> None:
        """Forget what was judged behind `step`."""
        self.rows.continue_from(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what training starts from."""
        if trainer.global_step == 0 and trainer.is_global_zero:
            self._judge(pl_module, step=0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Judge after the optimiser's step."""
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and trainer.is_global_zero and step > self.rows.last:
            self._judge(pl_module, step)

    def _judge(self, task: Any, step: int) -> None:
        measures = judge(task.model, self.chosen, self.protocol, self.size)
        best = min((row[MEASURE] for row in read_metrics(self.rows.path)), default=float("inf"))
        if measures[MEASURE] < best:  # the model before its row: a row never promises what is not there
            about = {**task.record, "steps": step, "validation": {**measures, "protocol": self.protocol.to_dict()}}
            save_model(self.run / "best", task.model, about)
        self.rows.log_metrics(measures, step=step - 1)
        shown = ", ".join(f"{name} {measures[name]:.4f}" for name in SHOWN)
        note = " (best so far)" if measures[MEASURE] < best else ""
        console.print(f"{self.run.name}, step {step}: {shown} on {int(measures['images'])} images{note}.")


def judge(
    model: DepthModel, chosen: list[tuple[str, Records, int]], protocol: Protocol, size: Size
) -> dict[str, float]:
    """Each measure's mean over the images that can be judged, whose number is `images`; the model stays in its mode.

    Raises:
        UserError: none can be judged.
    """
    training, results = model.training, []
    model.eval()
    for name, records, index in chosen:
        try:
            sample = read_sample(records[index], name)
        except BadSample:
            continue
        disparity = resize_map(_disparity(model, sample, size), *sample.disparity.shape)
        if (one := evaluate_image(disparity, sample.disparity, sample.valid, protocol, unit=sample.unit)) is not None:
            results.append(one)
    model.train(training)
    if not results:
        raise UserError("Expected images with labels under validation, but none could be judged; see its protocol.")
    shared = set.intersection(*(set(one) for one in results)) - {"pixels"}
    means = {name: float(np.mean([one[name] for one in results])) for name in sorted(shared)}
    return {"images": len(results), **means}


@torch.no_grad()
def _disparity(model: DepthModel, sample: Sample, size: Size) -> np.ndarray:
    token = model.pretrained.cls_token
    image = prepare([sample.image], size, patch=model.config.encoder.patch_size).to(token.device)
    with torch.autocast(token.device.type, enabled=False):
        values = model(image.contiguous(memory_format=torch.channels_last))
    return Prediction(values[0, 0].float().cpu().numpy(), model.config.kind).disparity


def _spread(count: int, limit: int | None) -> range | list[int]:
    if limit is None or limit >= count:
        return range(count)
    return [number * count // limit for number in range(limit)]
