"""Floating-point operations: of a depth model, counted without computing anything, and of devices, by their makers."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from depth_anything_train.models.depth_model import DepthModel, DepthModelConfig

PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "GH200": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense 16-bit matrix products with 32-bit sums, in 10^12 operations a second, as the makers' data sheets have them.

Words of the device's name; where several fit, the longest entry does. Another device has no known peak.
"""


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


@functools.cache
def count_flops(config: DepthModelConfig, height: int, width: int) -> Flops:
    """Count matrix products, convolutions and attention for one image of `height` x `width` pixels.

    Args:
        config: configuration of the model, which is made without values and without recomputation.
        height, width: multiples of the patch size.

    Raises:
        UserError: a side is no multiple of the patch size.
    """
    with torch.device("meta"):
        model = DepthModel(config, activation_checkpointing="none")
        image = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        maps, _ = model.pretrained.forward_taps(image)
        encoder = counter.get_total_flops()
        disparity = model.depth_head(maps, image.shape[-2:])
        forward = counter.get_total_flops()
        disparity.sum().backward()
        training = counter.get_total_flops()
    return Flops(forward, encoder, training)


def peak_flops(device_name: str) -> float | None:
    """Operations a second that a device can do at most, by its name; None where it is not known."""
    words = set(re.findall(r"\w+", device_name))
    fitting = [entry for entry in PEAK_TFLOPS if set(entry.split()) <= words]
    return 1e12 * PEAK_TFLOPS[max(fitting, key=len)] if fitting else None
