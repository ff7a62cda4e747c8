"""Linear layers, computed on a CPU by the faster of the two libraries that torch brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SMALLEST = 2**16
"""Weights from which oneDNN's faster product is worth its ten microseconds more for a call."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`torch.nn.functional.linear`, and on a CPU up to rounding: (..., in) by (out, in) and (out) to (..., out)."""
    if _by_onednn(x, weight):
        result: Tensor = _Linear.apply(x, weight, bias)
        return result
    return torch.nn.functional.linear(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `linear` computes, to the last bit, for code that takes care of the gradients itself."""
    if _by_onednn(x, weight):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")
        return result
    return torch.nn.functional.linear(x, weight, bias)


def gradients(gradient: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Of `x`, `weight` and the bias, each if `needed`, from the gradient of what `product` gave."""
    rows = gradient.flatten(0, -2)
    of_x = product(gradient, weight.t()) if needed[0] else None
    of_weight = rows.t() @ x.flatten(0, -2) if needed[1] else None
    return of_x, of_weight, rows.sum(0) if needed[2] else None


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    # torch gives float32 to MKL, which takes 6 to 15 % longer than oneDNN where there is AVX-512 (measured on Zen 4; on
    # Zen 3, without, it is the faster one), and has no public way to choose. A compiler chooses for itself.
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() >= SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return gradients(gradient, x, weight, ctx.needs_input_grad)
