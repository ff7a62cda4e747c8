"""A model judged on held-out shards before and while it is trained; the best so far is kept beside the last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.interruption import Interruption, Stopped
from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.callbacks.wandb_mirror import WandbMirror
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.test_sets import EvenlySpread
from depth_anything_train.evaluation.distributed import Ranks
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.evaluation.segmentation import count
from depth_anything_train.files import read_json
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.preprocess import Size
from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.results import listed
from depth_anything_train.models import checkpoints, segmenter
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.segmenter import Segmenter
from depth_anything_train.runtime import console, fingerprint, require_count
from depth_anything_train.tasks.base import Task
from depth_anything_train.tasks.steps import ends_step

Measured = tuple[dict[str, float], Mapping[str, int]]
"""The measures of a model, and how many samples could not be judged for which reason."""


class Validation(Callback, ABC):
    """Judge at step 0, every `every_n_steps` steps and at the end; `validation/metrics.jsonl` has a row for each.

    All ranks judge, each its share of the images, and a copy of the model: whole where its weights are shared out, not
    compiled, and in eval mode. The best one is kept in `best/`; where a run continues with other data or another way to
    judge, the best since then, because the measures of before say nothing about it.

    A request to stop is heard at the next image. What was judged by then is dropped; a run that continues judges again.

    Args:
        run: folder of the run.
        interruption: tells whether to stop now.
        data: folders of shards by name, none of which is trained on.
        size: size in pixels of the views in training.
        every_n_steps: optimiser steps between two.
        limit: at most so many images of each folder, evenly spread.
    """

    shown: ClassVar[tuple[str, ...]]
    """The measures that are printed."""
    best_by: ClassVar[str]
    """The one that says which model is the best."""
    higher_is_better: ClassVar[bool]
    description: ClassVar[str]
    """The file of a saved model that holds its record."""

    def __init__(
        self,
        run: str | Path,
        *,
        interruption: Interruption,
        data: Mapping[str, ShardFolder],
        size: Size,
        every_n_steps: int,
        limit: int | None = None,
    ) -> None:
        require_count("validate.every_n_steps", every_n_steps)
        self.run, self.interruption, self.size, self.every_n_steps = Path(run), interruption, size, every_n_steps
        self.data = {name: EvenlySpread(records, limit) for name, records in data.items()}
        self.data_identity = [limit, sorted(folder.content for folder in data.values())]
        self.rows = MetricsLog(self.run / "validation")
        self.newest = -1  # step of the last row
        self.said_skipped = False

    @abstractmethod
    def measure(self, model: Any, device: torch.device, ranks: Ranks) -> Measured:
        """The measures of a model over the images that can be judged, with their number; on the first rank alone.

        Raises:
            UserError: not one image could be judged.
            Stopped: a rank was asked to stop; on all of them.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How it is judged, for the record of the best model: plain JSON."""

    def continue_from(self, step: int) -> None:
        """Forget validations after `step`."""
        self.rows.continue_from(step)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let all ranks know what is judged already; the first one has the rows."""
        self.newest = trainer.strategy.broadcast(self.rows.last)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the model that training starts from or continues with."""
        self._judge_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Judge after the optimiser's step."""
        if ends_step(trainer) and trainer.global_step < trainer.max_steps:
            self._judge_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the last step, whose state is saved by now.

        Raises:
            Stopped: a rank was asked to stop.
        """
        self._judge_if_due(trainer, pl_module)
        self.interruption.stop_if_agreed()

    def _judge_if_due(self, trainer: Trainer, task: LightningModule) -> None:
        step = trainer.global_step
        if step == self.newest or (step % self.every_n_steps and step < trainer.max_steps):
            return
        try:
            self._judge(trainer, task)
            self.newest = step
        except Stopped:
            pass  # the callback that saves the state leaves

    def _judge(self, trainer: Trainer, task: LightningModule) -> None:
        """Every rank must call it.

        Raises:
            UserError: not one image could be judged.
            Stopped: a rank was asked to stop.
        """
        assert isinstance(task, Task)
        step = trainer.global_step
        ranks = Ranks(trainer.global_rank, trainer.world_size, self.interruption.agree_or_stop)
        model, device = task.snapshot(), trainer.strategy.root_device  # behind the last step the task has left it
        measures, skipped = self.measure(model, device, ranks)
        if not ranks.first:
            return
        self._say_skipped(skipped)
        identity = fingerprint([self.data_identity, self.describe()])
        is_best = self._is_best(measures, identity)
        if is_best:  # the model before its row: a row never promises what is not there
            validation = {**measures, **self.describe(), "fingerprint": identity}
            about = {**task.record, "steps": step, "validation": validation}
            task.save(self.run / "best", model, about)
        self.rows.log_metrics(measures, step=step - 1)
        for logger in trainer.loggers:
            if isinstance(logger, WandbMirror):
                logger.log_metrics({f"validation/{name}": value for name, value in measures.items()}, step=step - 1)
        shown = ", ".join(f"{name} {measures[name]:.4f}" for name in self.shown)
        note = " (best so far)" if is_best else ""
        sentence = f"{self.run.name}, step {step}: {shown} on {measures['images']} images{note}."
        console.print(sentence, soft_wrap=True)

    def _say_skipped(self, skipped: Mapping[str, int]) -> None:
        """Once a run: they are the same ones every time."""
        if skipped and not self.said_skipped:
            self.said_skipped = True
            console.print(
                f"{self.run.name}: validation leaves out what cannot be judged, {listed(skipped)}.", soft_wrap=True
            )

    def _is_best(self, measures: Mapping[str, float], identity: str) -> bool:
        """Whether a model takes the place of the one in `best/`, whose own record says how that was judged."""
        record = self.run / "best" / self.description
        if not record.exists():
            return True
        kept = read_json(record, keys=("extra",))["extra"]["validation"]
        if kept.get("fingerprint") != identity:
            console.print(
                f"{self.run.name}: the model in best/ was judged on other data or in another way, and gives its place "
                "to the best from now on.",
                soft_wrap=True,
            )
            return True
        ours, theirs = measures[self.best_by], kept[self.best_by]
        return ours > theirs if self.higher_is_better else ours < theirs


class DepthValidation(Validation):
    """A depth model on labelled shards, with the numbers of `evaluate`; the best one has the smallest AbsRel.

    Args:
        protocol: how an image is judged.
        options: see `Validation`; at `size` the network sees an image, as `preprocess.network_size` has it.
    """

    shown = ("abs_rel", "delta1")
    best_by = "abs_rel"
    higher_is_better = False
    description = checkpoints.FILES.description

    def __init__(self, run: str | Path, *, protocol: DepthProtocol, **options: Any) -> None:
        super().__init__(run, **options)
        self.protocol = protocol

    def measure(self, model: DepthModel, device: torch.device, ranks: Ranks) -> Measured:
        """The means over the images."""
        predictor = DepthAnything(model, size=self.size, device=device)
        results = evaluate(predictor, self.data, self.protocol, ranks=ranks, progress=False)
        return ({"images": len(results.images), **results.mean()} if ranks.first else {}), results.skipped

    def describe(self) -> dict[str, Any]:
        """The protocol."""
        return {"protocol": self.protocol.to_dict()}


class SegmentationValidation(Validation):
    """A segmenter on segmented shards; the best one has the largest mIoU.

    Args:
        window: how an image is looked at.
        options: see `Validation`.
    """

    shown = ("miou", "accuracy")
    best_by = "miou"
    higher_is_better = True
    description = segmenter.FILES.description

    def __init__(self, run: str | Path, *, window: SlidingWindow, **options: Any) -> None:
        super().__init__(run, **options)
        self.window = window

    def measure(self, model: Segmenter, device: torch.device, ranks: Ranks) -> Measured:
        """The measures of all pixels together."""
        counted = count(model.to(device), self.data, self.window, ranks=ranks, progress=False)
        return (counted.measures() if ranks.first else {}), counted.skipped

    def describe(self) -> dict[str, Any]:
        """The window."""
        return {"window": asdict(self.window)}
