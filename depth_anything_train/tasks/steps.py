"""Optimiser steps, where Lightning's hooks count batches: which of them are logged, and which batch ends one."""

from __future__ import annotations

from pytorch_lightning import Trainer


def has_row(step: int, trainer: Trainer) -> bool:
    """Whether the `step`-th step, counted from 1, is logged; nothing is measured or waited for at the others."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def ends_step(trainer: Trainer) -> bool:
    """Whether the batch at hand is the last of its step: with gradient accumulation it has several."""
    return (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
