"""The optimiser of ZoeDepth and V1's metric models as one object: a new head fast, what was trained before slowly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from depth_anything_train.optim.param_groups import prefix_groups
from depth_anything_train.optim.schedule import one_cycle
from depth_anything_train.runtime import UserError
from depth_anything_train.types import BINS, ENCODER


@dataclass(frozen=True)
class OneCycleAdamW:
    """AdamW whose rates stay constant for a share of the run and then fall in a cosine.

    Args:
        lr: learning rate of the new head, the bins.
        encoder_division: the encoder learns at `lr` / this.
        positions_division: its position embedding at `lr` / this.
        decoder_division: the DPT decoder at `lr` / this.
        weight_decay: decoupled weight decay.
        constant_share: share of the steps before the rates fall.
        final_division: every rate ends at its start / this.
    """

    lr: float = 1.61e-4
    encoder_division: float = 50.0
    positions_division: float = 50.0
    decoder_division: float = 50.0
    weight_decay: float = 0.01
    constant_share: float = 0.7
    final_division: float = 1e4

    def build(self, model: nn.Module, steps: int) -> tuple[AdamW, OneCycleLR]:
        """Optimiser and schedule for a run of `steps`; the schedule is advanced once a step.

        Raises:
            UserError: nothing is trainable, a number cannot be, or the model has no bins.
        """
        if not any(name.startswith(BINS) for name, _ in model.named_parameters()):
            raise UserError(
                "Expected a model with bins for the one-cycle recipe, whose lr is theirs: all else, a new last layer "
                "too, would learn 50 times slower; take optim=adamw with model.bins=null."
            )
        divisions = self.encoder_division, self.positions_division, self.decoder_division
        if self.lr < 0 or self.weight_decay < 0 or min(divisions) <= 0:
            raise UserError(
                f"Expected lr and weight_decay >= 0 and divisions > 0, but got lr={self.lr}, "
                f"weight_decay={self.weight_decay} and {divisions}."
            )
        rates = {
            "": ("head", self.lr),
            ENCODER: ("encoder", self.lr / self.encoder_division),
            f"{ENCODER}pos_embed": ("positions", self.lr / self.positions_division),
            "depth_head.": ("decoder", self.lr / self.decoder_division),
            BINS: ("head", self.lr),
        }
        optimizer = AdamW(prefix_groups(model, rates, weight_decay=self.weight_decay), fused=True)
        schedule = one_cycle(
            optimizer, steps=steps, constant_share=self.constant_share, final_division=self.final_division
        )
        return optimizer, schedule
