"""Bilinear enlargement, with a gradient that a GPU computes fast and always alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear from (B, C, h, w) to (B, C, *size), corners on corners.

    On a GPU torch adds this gradient up in memory, where additions wait for each other: compiled, a third of a training
    step on an H200, and in an order that is left to chance. Instead each place can gather what it is owed.
    """
    gathers = torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled()
    if x.is_cuda and gathers and min(*x.shape[-2:], *size) > 1:
        return _Enlarge.apply(x, *size)
    return _bilinear(x, size)


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, height: int, width: int) -> Tensor:
        ctx.sides, ctx.dtype = x.shape[-2:], x.dtype
        return _bilinear(x, (height, width))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        height, width = ctx.sides
        return gather_gradient(gather_gradient(gradient, height, -2), width, -1).to(ctx.dtype), None, None


def gather_gradient(gradient: Tensor, length: int, axis: int) -> Tensor:
    """The gradient along one axis of length `length` > 1 that was brought linearly to another, corners on corners.

    Each input contributes to the outputs within one input step, with triangular (hat) weights.
    """
    results = gradient.shape[axis]
    step = (length - 1) / (results - 1)  # of the results, in places
    place = torch.arange(length, device=gradient.device, dtype=torch.float32)
    leftmost = ((place - 1) / step).ceil()
    distance, first = leftmost * step - place, leftmost.int()
    total = torch.zeros((), device=gradient.device)
    for offset in range(math.floor(2 / step) + 1):
        result = first + offset
        hat = (1 - (distance + offset * step).abs()).clamp(min=0).where((result >= 0) & (result < results), 0.0)
        taken = gradient.index_select(axis, result.clamp(0, results - 1))
        total = total + taken * hat.reshape(-1, *[1] * (-1 - axis))
    return total
