"""Bicubic resampling as a matrix: the numbers of PyTorch's `interpolate` where sizes are known at run time only.

A graph that leaves PyTorch can hold a matrix product at any size, but not every way of `interpolate`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bicubic_matrix(target: int, source: int, step: Tensor, *, antialias: bool = False) -> Tensor:
    """Weights (target, source) with which bicubic `interpolate` makes `target` values out of `source`, float32.

    Args:
        target: number of values wanted; may be symbolic.
        source: number of values there are.
        step: distance of two target values in source values, a scalar: source / target where the whole is fitted, or
            1 / scale_factor.
        antialias: as that of `interpolate`, which also changes the cubic.
    """
    centre = step * (torch.arange(target) + 0.5)[:, None]
    if antialias:
        weights = _cubic((torch.arange(source) + 0.5 - centre) / step.clamp(min=1), a=-0.5)
        return weights / weights.sum(1, keepdim=True)
    taps = (centre - 0.5).floor() + torch.arange(-1, 3)  # (target, 4)
    weights = _cubic(centre - 0.5 - taps, a=-0.75)
    inside = taps.clamp(0, source - 1)  # the border repeats
    return (weights[..., None] * (inside[..., None] == torch.arange(source))).sum(1)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel: 1 at 0, and 0 at every other whole distance."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
