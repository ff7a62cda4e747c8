"""Learning rate as a function of the step alone, so that a continued run takes it up where it was."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from depth_anything_train.runtime import UserError


def linear_factor(step: int, *, steps: int, warmup_steps: int = 0) -> float:
    """Factor on the learning rate in step 0, 1, ...: up to 1 over the warm-up, then down in a line to 0 at `steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / (steps - warmup_steps))


def linear_decay(optimizer: Optimizer, *, steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Schedule for an optimiser: linear decay to 0, advanced once a step (V1 section 4.1; no warm-up is mentioned).

    Raises:
        UserError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < steps:
        raise UserError(
            f"Expected fewer warm-up steps than steps, got {warmup_steps} of {steps}; "
            "lengthen the run or shorten the warm-up."
        )
    return LambdaLR(optimizer, lambda step: linear_factor(step, steps=steps, warmup_steps=warmup_steps))
