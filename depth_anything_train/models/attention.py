"""Self-attention, and the one function that decides which kernel computes it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from depth_anything_train.ops.plain_attention import IS_FASTER, plain_attention
from depth_anything_train.runtime import UserError, require_choice

Kernel = Literal["sdpa", "xformers"]


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, C) to the same shape; `kernel` may be changed at any time."""

    kernel: Kernel = "sdpa"

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Every token attends to every token of its image; `lengths` as in `attend`."""
        return self.proj(self.mix(self.qkv(x), lengths))

    def mix(self, qkv: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Queries, keys and values (B, N, 3 C) to what goes into the last layer (B, N, C)."""
        # Unbound where they lie, their gradients are written where they belong, without a copy in another order.
        query, key, value = (x.transpose(1, 2) for x in qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2))
        return attend(query, key, value, self.kernel, lengths).transpose(1, 2).flatten(2)


def set_kernel(module: nn.Module, kernel: str) -> None:
    """Let every attention inside `module` use this kernel; the numbers stay equal up to rounding.

    Raises:
        UserError: the kernel is unknown, or xformers is not installed.
    """
    require_choice("attention", kernel, get_args(Kernel))
    if kernel == "xformers" and find_spec("xformers") is None:
        raise UserError('attention=xformers needs xformers: pip install "depth-anything-train[xformers]", or use sdpa.')
    if kernel == "xformers" and torch.cuda.is_available():
        load_cuda_12()
    for part in module.modules():
        if isinstance(part, Attention):
            part.kernel = kernel  # type: ignore[assignment]


def attend(
    query: Tensor, key: Tensor, value: Tensor, kernel: Kernel = "sdpa", lengths: Sequence[int] | None = None
) -> Tensor:
    """Softmax attention, (B, heads, N, channels of a head) to the same shape.

    `lengths` cuts the N tokens into pieces that attend to themselves alone: images of several sizes packed into one
    row. xformers has operators for CUDA and half precision only; anything else goes to torch, whatever `kernel` says.

    Raises:
        UserError: xformers has no kernel for this device, or for these shapes.
    """
    if kernel == "xformers" and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _attend_xformers(query, key, value, lengths)
    if lengths is not None:
        pieces = zip(*(x.split(list(lengths), dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([attend(q, k, v) for q, k, v in pieces], dim=2)
    is_compiling = torch.compiler.is_compiling()  # perhaps for any number of tokens
    if IS_FASTER and query.device.type == "cpu" and query.dtype == torch.bfloat16 and not is_compiling:
        # In 0.6 to 1.1 of the time of torch's kernel, or 0.5 to 0.95 with backward. It rounds more: for 1370 tokens and
        # scores with a standard deviation of 2 its error is 0.010 instead of 0.002, where rounding the inputs alone
        # makes 0.005. The features of all of S differ from float32's 1.0, 1.2 and 1.3 times as much as with torch's
        # kernel, for deviations of 1.5, 4.6 and 9.3.
        return plain_attention(query, key, value)
    # On Hopper torch takes cuDNN's kernel first by itself (seen with 2.11); to ask for it costs 0.1 ms a call.
    return scaled_dot_product_attention(query, key, value)


def load_cuda_12() -> None:
    """Have the runtime at hand that xformers' wheels are bound to: torch may have come with another one."""
    if (nvidia := find_spec("nvidia")) is not None:
        for folder in nvidia.submodule_search_locations or ():
            with suppress(OSError):
                ctypes.CDLL(f"{folder}/cuda_runtime/lib/libcudart.so.12", ctypes.RTLD_GLOBAL)


def _attend_xformers(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int] | None) -> Tensor:
    from xformers.ops import fmha

    mask = None if lengths is None else fmha.BlockDiagonalMask.from_seqlens(list(lengths), device=query.device)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, heads, channels)
    try:
        result: Tensor = fmha.memory_efficient_attention(query, key, value, attn_bias=mask)
    except NotImplementedError:
        raise UserError(
            "attention=xformers has no kernel for this device: see `python -m xformers.info`, where the installed "
            f"xformers was built for another torch than {torch.__version__} install one that fits, or use sdpa."
        ) from None
    return result.transpose(1, 2)
