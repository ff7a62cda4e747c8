"""Learning rate as a function of the step alone, so that a continued run takes it up where it was."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from depth_anything_train.runtime import UserError


def linear_factor(step: int, *, steps: int, warmup_steps: int = 0, power: float = 1.0) -> float:
    """Factor on the learning rate in step 0, 1, ...: up to 1 over the warm-up, then down in a line to 0 at `steps`.

    `power` bends the line: V2's metric models decay with 0.9 ("poly").
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / (steps - warmup_steps)) ** power


def linear_decay(optimizer: Optimizer, *, steps: int, warmup_steps: int = 0, power: float = 1.0) -> LambdaLR:
    """Schedule for an optimiser: linear decay to 0, advanced once a step (V1 section 4.1; no warm-up is mentioned).

    Raises:
        UserError: the warm-up is not shorter than the run, or `power` is not above 0.
    """
    if not power > 0:
        raise UserError(f"Expected optim.power above 0, so that the rates fall, but got {power}.")
    if not 0 <= warmup_steps < steps:
        raise UserError(
            f"Expected fewer warm-up steps than steps, but got {warmup_steps} of {steps}; "
            "lengthen the run or shorten the warm-up."
        )
    return LambdaLR(optimizer, lambda step: linear_factor(step, steps=steps, warmup_steps=warmup_steps, power=power))


def one_cycle(optimizer: Optimizer, *, steps: int, constant_share: float, final_division: float) -> OneCycleLR:
    """Schedule of ZoeDepth: constant for a share of the run, then down in a cosine; momentum the other way.

    torch's one-cycle policy with a first rate that is the largest one (`div_factor` 1), so that nothing rises.

    Raises:
        UserError: a share or division that cannot be.
    """
    if not 0 < constant_share < 1 or final_division < 1:
        raise UserError(
            f"Expected optim.constant_share between 0 and 1 and final_division >= 1, but got {constant_share} and "
            f"{final_division}."
        )
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(steps, 2),  # of one step torch could not say which part it is
        pct_start=constant_share,
        div_factor=1.0,
        final_div_factor=final_division,
        base_momentum=0.85,
        max_momentum=0.95,
    )
