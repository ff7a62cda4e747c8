"""Floating-point operations of a depth model, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from depth_anything_train.models.depth_model import DepthModel


@dataclass(frozen=True)
class Flops:
    """Operations for one image; a multiplication and an addition count as two. Recomputed activations do not count.

    Attributes:
        forward: the whole model.
        encoder: its encoder alone.
        training: the whole model forward and backward.
    """

    forward: int
    encoder: int
    training: int


def count_flops(model: DepthModel, height: int, width: int) -> Flops:
    """Count matrix products, convolutions and attention for one image of `height` x `width` pixels.

    Args:
        model: on the device `meta`, built with `activation_checkpointing="none"`.
        height, width: multiples of the patch size.

    Raises:
        UserError: a side is no multiple of the patch size.
    """
    image = torch.empty(1, 3, height, width, device="meta")
    with FlopCounterMode(display=False) as encoder, torch.no_grad():
        model.pretrained(image)
    with FlopCounterMode(display=False) as training:
        disparity = model(image)
        forward = training.get_total_flops()
        disparity.sum().backward()
    return Flops(forward, encoder.get_total_flops(), training.get_total_flops())
