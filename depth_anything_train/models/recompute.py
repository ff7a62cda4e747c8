"""Linear layers that keep what they were made from instead of their input, which backward computes again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def linear_after(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`linear(function(x), weight, bias)`."""
    return linear(function(x), weight, bias)


def recomputed_linear_after(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same to the last bit, keeping `x` alone: backward calls `function` again, but multiplies no matrix twice.

    `torch.utils.checkpoint` does so for any code, and takes a millisecond of the processor for each call: twice the
    time of a step that is not large enough to keep a GPU busy.

    Args:
        function: cheap and without randomness, such as a norm or an activation; its parameters are those of a module.
        x, weight, bias: as of `linear`.
    """
    parameters = tuple(function.parameters()) if isinstance(function, nn.Module) else ()
    result: Tensor = _LinearAfter.apply(function, x, weight, bias, *parameters)
    return result


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.function, ctx.autocast = function, autocast_dtype(x.device.type)
        between = function(x)
        if ctx.autocast is not None:
            between, weight, bias = (one.to(ctx.autocast) for one in (between, weight, bias))
        ctx.save_for_backward(x, weight, *parameters)
        return linear(between, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        wanted = [x.detach().requires_grad_(), *parameters]
        as_before = nullcontext() if ctx.autocast is None else torch.autocast(x.device.type, ctx.autocast)
        with torch.enable_grad(), as_before:
            between = ctx.function(wanted[0])
        rows, inputs = gradient.flatten(0, -2), between.detach().to(weight.dtype).flatten(0, -2)
        of_between = (gradient @ weight).to(between.dtype)
        of_x, *of_parameters = torch.autograd.grad(between, wanted, of_between)
        return None, of_x, rows.t() @ inputs, rows.sum(0), *of_parameters


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast turns the inputs of a matrix product into now; None if nothing."""
    # On "meta", where costs are counted, there is none to ask.
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
