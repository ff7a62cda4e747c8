"""Linear layers that keep what they were made from instead of their input, which backward computes again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from depth_anything_train.ops.linear import gradients, linear, product


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
    result: Tensor = _LinearAfter.apply(function, x, weight, bias, *_parameters(function))
    return result


def _parameters(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return tuple(function.parameters()) if isinstance(function, nn.Module) else ()


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor
    ) -> Tensor:
        ctx.function, ctx.autocast = function, autocast_dtype(x.device.type)
        between = function(x)
        if ctx.autocast is not None and between.dtype != torch.float64:  # which autocast leaves alone
            between, weight, bias = (one.to(ctx.autocast) for one in (between, weight, bias))
        ctx.save_for_backward(x, weight)
        return product(between, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (_, needs_x, needs_weight, needs_bias, *_) = ctx.saved_tensors, ctx.needs_input_grad
        inner = [x.detach().requires_grad_(needs_x), *_parameters(ctx.function)]
        wanted = [one for one in inner if one.requires_grad]
        as_before = nullcontext() if ctx.autocast is None else torch.autocast(x.device.type, ctx.autocast)
        with torch.enable_grad(), as_before:
            between = ctx.function(inner[0])
        inputs, needed = between.detach().to(weight.dtype), (bool(wanted), needs_weight, needs_bias)
        of_between, of_weight, of_bias = gradients(gradient, inputs, weight, needed)
        found = iter(() if of_between is None else torch.autograd.grad(between, wanted, of_between.to(between.dtype)))
        of_x, *of_parameters = (next(found) if one.requires_grad else None for one in inner)
        return None, of_x, of_weight, of_bias, *of_parameters


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast turns the inputs of a matrix product into now; None if nothing."""
    # On "meta", where costs are counted, there is none to ask.
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
