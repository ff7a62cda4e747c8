import pytest
import pytorch_lightning as pl
import torch

from depth_anything_train.callbacks.finite_guard import FiniteGuard
from depth_anything_train.runtime import UserError


class Scripted(pl.LightningModule):
    """One weight; the loss of step i is `script[i]` times it."""

    def __init__(self, script):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.script = script
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.weight.item())
        return self.weight * self.script[batch_idx]

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


def fit(script, guard):
    module = Scripted(script)
    trainer = pl.Trainer(
        max_steps=len(script), callbacks=[guard], logger=False, accelerator="cpu", devices=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(len(script)), batch_size=1))
    return module


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_guard__a_step_without_finite_gradient_changes_nothing(bad):
    guard = FiniteGuard()
    seen = fit([1.0, bad, bad, 1.0, 1.0], guard).seen
    assert seen[1] == seen[2] == seen[3]
    assert seen[0] != seen[1] and seen[3] != seen[4]
    assert (guard.skipped, guard.in_a_row) == (2, 0)


def test_guard__skipped_steps_leave_the_optimiser_as_if_they_had_not_been():
    assert fit([1.0, float("nan"), 2.0, 1.0], FiniteGuard()).seen[2:] == fit([1.0, 2.0, 1.0], FiniteGuard()).seen[1:]


def test_guard__too_many_in_a_row_stop_the_run():
    with pytest.raises(UserError, match="3 steps in a row"):
        fit([1.0, float("nan"), float("nan"), float("nan"), 1.0], FiniteGuard(max_in_a_row=3))


def test_guard__counters_outlive_an_interruption():
    guard = FiniteGuard()
    fit([float("nan"), 1.0], guard)
    continued = FiniteGuard()
    continued.load_state_dict(guard.state_dict())
    assert continued.skipped == 1


def test_guard__a_norm_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="clip_norm to be null or a norm above 0"):
        FiniteGuard(clip_norm=0.0)


def test_guard__a_long_gradient_is_scaled_to_the_norm_asked_for():
    class Seen(FiniteGuard):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            self.gradient = pl_module.weight.grad.item()

    for factor, expected in ((5.0, 0.5), (0.25, 0.25)):
        guard = Seen(clip_norm=0.5)
        fit([factor], guard)
        assert guard.gradient == pytest.approx(expected, rel=1e-4)
