"""A step whose gradients are not finite is skipped on every rank, counted, and too many in a row stop the run."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from depth_anything_train.runtime import UserError, console


class FiniteGuard(Callback):
    """Look at the gradient norm before each optimiser step (design rule: losses are guarded).

    Gradients are averaged over ranks before this hook, and one NaN makes the average NaN everywhere: every rank sees
    the same norm and comes to the same decision without talking.

    Args:
        max_in_a_row: skipped steps in a row that stop the run.
        clip_norm: a longer gradient is scaled down to this norm; None leaves it. (Lightning's own clipping refuses
            the fused optimiser.)
    """

    def __init__(self, *, max_in_a_row: int = 10, clip_norm: float | None = None) -> None:
        self.max_in_a_row, self.clip_norm = max_in_a_row, clip_norm
        self.skipped = 0
        self.in_a_row = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm; drop all gradients when it is not finite, which leaves weights and moments untouched.

        Raises:
            UserError: `max_in_a_row` steps in a row were not finite.
        """
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        pl_module.log("train/gradient_norm", norm)
        if torch.isfinite(norm):
            self.in_a_row = 0
            if self.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
            return
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.in_a_row += 1
        console.print(f"Step {trainer.global_step} is skipped: its gradient is not finite ({self.skipped} so far).")
        if self.in_a_row >= self.max_in_a_row:
            raise UserError(
                f"{self.in_a_row} steps in a row had gradients that are not finite, the last at step "
                f"{trainer.global_step}; lower the learning rate, or look for broken labels with `verify`."
            )

    def state_dict(self) -> dict[str, int]:
        """The counters, so that they outlive an interruption."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the counters up again."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
