"""The optimiser of the paper as one object: what a config builds, and a task calls with its model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from depth_anything_train.optim.param_groups import prefix_groups
from depth_anything_train.optim.schedule import linear_decay
from depth_anything_train.runtime import UserError
from depth_anything_train.types import ENCODER


@dataclass(frozen=True)
class EncoderDecoderAdamW:
    """AdamW with two learning rates that fall in a line to 0 (V1 section 4.1).

    Args:
        encoder_lr: learning rate of the pre-trained encoder.
        decoder_lr: learning rate of everything else.
        betas: decay of the two moments.
        weight_decay: decoupled weight decay.
        decay_norms_and_biases: whether vectors decay too.
        decay_embeddings: whether embeddings of positions, levels and queries do.
        warmup_steps: steps over which the rates rise first.
        power: bends the line; 0.9 is the "poly" decay of V2's metric models.
    """

    encoder_lr: float = 5e-6
    decoder_lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    decay_norms_and_biases: bool = True
    decay_embeddings: bool = True
    warmup_steps: int = 0
    power: float = 1.0

    def build(self, model: nn.Module, steps: int) -> tuple[AdamW, LambdaLR]:
        """Optimiser and schedule for a run of `steps`; the schedule is advanced once a step.

        Raises:
            UserError: nothing is trainable, a rate is negative, or as `linear_decay`.
        """
        if min(self.encoder_lr, self.decoder_lr, self.weight_decay) < 0:
            rates = f"encoder_lr={self.encoder_lr}, decoder_lr={self.decoder_lr}, weight_decay={self.weight_decay}"
            raise UserError(f"Expected learning rates and weight decay >= 0, but got {rates}.")
        groups = prefix_groups(
            model,
            {ENCODER: ("encoder", self.encoder_lr), "": ("decoder", self.decoder_lr)},
            weight_decay=self.weight_decay,
            decay_norms_and_biases=self.decay_norms_and_biases,
            decay_embeddings=self.decay_embeddings,
        )
        # Fused: one pass over the weights instead of ten small operations for each of the two hundred tensors.
        optimizer = AdamW(groups, betas=(self.betas[0], self.betas[1]), fused=True)
        return optimizer, linear_decay(optimizer, steps=steps, warmup_steps=self.warmup_steps, power=self.power)
