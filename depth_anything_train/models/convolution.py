"""3x3 convolutions of large maps, whose weights get their gradient fast on CPUs without AVX-512 too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from depth_anything_train.models.recompute import autocast_dtype

GRADIENT_ROWS = 64


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution, (B, C, h, w) to (B, D, h, w).

    For the gradient of the weights, oneDNN first rearranges both maps, unless they are contiguous or the CPU has
    AVX-512, and takes longer for that than for the products. In strips that fit in the caches the same costs little: it
    saves a fifteenth of the time of forward and backward of S, and sums of fewer places are more exact.
    """

    def __init__(self, incoming: int, outgoing: int, *, bias: bool = True) -> None:
        super().__init__(incoming, outgoing, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of `nn.Conv2d`; only the gradient is found in another way."""
        if _gains_from_strips(x, self.weight):
            result: Tensor = _InStrips.apply(x, self.weight, self.bias)
            return result
        return super().forward(x)


class _InStrips(torch.autograd.Function):
    generate_vmap_rule = True  # for `torch.func`, as of any other layer

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(x, weight, bias, padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad
        of_x = _backward(gradient, x, weight, (1, 1), of_x=True) if needs_x else None
        return of_x, weight_gradient(x, weight, gradient), gradient.sum((0, 2, 3)) if needs_bias else None


def weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of `weight` in strips of the maps, each with the rows around it that reach into it."""
    height, total, weight = x.shape[2], torch.zeros_like(weight), weight.contiguous()
    for top in range(0, height, GRADIENT_ROWS):
        bottom = min(top + GRADIENT_ROWS, height)
        rows = pad(x[:, :, max(top - 1, 0) : bottom + 1], (0, 0, int(top == 0), int(bottom == height))).contiguous()
        total = total + _backward(gradient[:, :, top:bottom].contiguous(), rows, weight, (0, 1), of_x=False)
    return total


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], *, of_x: bool) -> Tensor:
    """What torch computes for `conv2d`: `torch.nn.grad.conv2d_input` does as well, and fills a map for nothing."""
    options = (None, (1, 1), padding, (1, 1), False, (0, 0), 1, (of_x, not of_x, False))
    both = torch.ops.aten.convolution_backward(gradient, x, weight, *options)
    return both[0 if of_x else 1]


def _gains_from_strips(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    learns = torch.is_grad_enabled() and weight.requires_grad
    plain = x.dtype == weight.dtype == torch.float32 and autocast_dtype("cpu") is None
    large = x.dim() == 4 and x.shape[2] > GRADIENT_ROWS
    rearranged = not x.is_contiguous() and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return learns and plain and large and rearranged
