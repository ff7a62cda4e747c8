"""Training tasks of the small experiments, and steps of them on made-up batches."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from depth_anything_train.building import build
from depth_anything_train.composition import compose


def make_task(experiment="tiny_student", **changes):
    torch.manual_seed(0)
    cfg = compose(
        "train",
        [f"experiment={experiment}", "out=x", *(f"{k}={v}" if v is not None else k for k, v in changes.items())],
    )
    return build(cfg.task, model=build(cfg.model), optim=build(cfg.optim), steps=cfg.steps)


def labelled(count, size=28):
    return {
        "image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8),
        "disparity": torch.rand(count, 1, size, size),
        "valid": torch.rand(count, 1, size, size) > 0.2,
        "key": [f"k{i}" for i in range(count)],
    }


def fit(task, batch, steps=1):
    trainer = pl.Trainer(
        max_steps=steps, logger=False, accelerator="cpu", devices=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(task, DataLoader([batch] * steps, batch_size=None))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
