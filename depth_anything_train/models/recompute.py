"""Linear layers that keep what they were made from instead of their input, which backward computes again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def linear_after(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
) -> Tensor:
    """`linear(function(x, *parameters), weight, bias)`."""
    return linear(function(x, *parameters), weight, bias)


def recomputed_linear_after(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
) -> Tensor:
    """The same to the last bit, keeping `x` alone: backward calls `function` again, but multiplies no matrix twice.

    `torch.utils.checkpoint` does so for any code, and takes a millisecond of the processor for each call: twice the
    time of a step that is not large enough to keep a GPU busy.

    Args:
        function: cheap, without randomness and of these tensors alone, such as a norm or an activation.
        x, weight, bias: as of `linear`.
        parameters: what `function` takes beside `x`, and has gradients as well.
    """
    result: Tensor = _LinearAfter.apply(function, x, weight, bias, *parameters)
    return result


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.function, ctx.autocast = function, autocast_dtype(x.device.type)
        between = function(x, *parameters)
        if between.dtype == torch.float64:
            ctx.autocast = None  # which leaves it alone
        if ctx.autocast is not None:
            between, weight, bias = (one.to(ctx.autocast) for one in (between, weight, bias))
        ctx.save_for_backward(x, weight, *parameters)
        return linear(between, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        _, needs_x, needs_weight, needs_bias, *needed = ctx.needs_input_grad
        given = zip((x, *parameters), (needs_x, *needed), strict=True)
        inner = [one.detach().requires_grad_(needs) for one, needs in given]
        wanted = [one for one in inner if one.requires_grad]
        as_before = nullcontext() if ctx.autocast is None else torch.autocast(x.device.type, ctx.autocast)
        with torch.enable_grad(), as_before:
            between = ctx.function(*inner)
        rows, inputs = gradient.flatten(0, -2), between.detach().to(weight.dtype).flatten(0, -2)
        of_weight, of_bias = rows.t() @ inputs if needs_weight else None, rows.sum(0) if needs_bias else None
        found = iter(torch.autograd.grad(between, wanted, (gradient @ weight).to(between.dtype)) if wanted else ())
        of_x, *of_parameters = (next(found) if one.requires_grad else None for one in inner)
        return None, of_x, of_weight, of_bias, *of_parameters


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast turns the inputs of a matrix product into now; None if nothing."""
    # On "meta", where costs are counted, there is none to ask.
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
