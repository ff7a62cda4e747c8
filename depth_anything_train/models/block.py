"""A block of the vision transformer, with the released names and a choice of what backward recomputes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from depth_anything_train.models.attention import Attention
from depth_anything_train.models.recompute import linear_after, recomputed_linear_after
from depth_anything_train.runtime import require_choice

ActivationCheckpointing = Literal["none", "selective", "full"]

NORM_EPS = 1e-6
"""What DINOv2's norms add to the variance; torch's own number is 1e-5."""


class LayerScale(nn.Module):
    """A learnt factor for each channel, 1 at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same shape."""
        return x * self.gamma


class Mlp(nn.Module):
    """Feed-forward part with GELU, four times as wide; what lies between its layers is cheap to compute again."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        return self.fc2(self.activate(self.fc1(x)))

    @property
    def first(self) -> nn.Linear:
        """(B, N, C) to (B, N, 4 C)."""
        return self.fc1

    @property
    def last(self) -> nn.Linear:
        """(B, N, 4 C) to (B, N, C)."""
        return self.fc2

    def activate(self, hidden: Tensor) -> Tensor:
        """What lies between the layers."""
        return nn.functional.gelu(hidden)


class SwiGLU(nn.Module):
    """Gated feed-forward part of the giant encoder; two thirds as wide as an MLP would be, in whole eights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * width)
        self.w3 = nn.Linear(width, dim)

    @property
    def first(self) -> nn.Linear:
        """(B, N, C) to (B, N, 2 width), gate and value."""
        return self.w12

    @property
    def last(self) -> nn.Linear:
        """(B, N, width) to (B, N, C)."""
        return self.w3

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        return self.w3(self.activate(self.w12(x)))

    def activate(self, hidden: Tensor) -> Tensor:
        """What lies between the layers, (B, N, 2 width) to (B, N, width)."""
        gate, value = hidden.chunk(2, dim=-1)
        return nn.functional.silu(gate) * value


OWN = (nn.Linear, nn.LayerNorm, LayerScale, Attention, Mlp, SwiGLU)
"""Parts that a block computes with by itself."""


class Block(nn.Module):
    """Attention and feed-forward part, each after a norm, scaled and added; (B, N, C) to the same shape.

    Args:
        dim: channels C.
        num_heads: attention heads.
        ffn: `mlp` or `swiglu`.
        activation_checkpointing: what backward computes again instead of storing it. `selective` leaves out the results
            of norms and activations, a third of a block's memory, for next to no time; `full` keeps only the input of
            the block, for a third of the time; `none` stores everything. The numbers are the same to the last bit.
            Compiled, `selective` is `none`: faster, but with more memory than `selective` has without a compiler.

    Where somebody put another module in place of one of these (as adapters such as LoRA do), replaced its `forward` or
    hooked it, all of them are called as modules: results are the same up to rounding, and `selective` is `none`.
    """

    def __init__(
        self, dim: int, num_heads: int, *, ffn: str = "mlp", activation_checkpointing: str = "selective"
    ) -> None:
        require_choice("activation_checkpointing", activation_checkpointing, get_args(ActivationCheckpointing))
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = SwiGLU(dim) if ffn == "swiglu" else Mlp(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Run the block; `lengths` as in `models.attention.attend`."""
        recompute = self.activation_checkpointing if self.training and torch.is_grad_enabled() else "none"
        untouched = self._is_untouched()  # asked once: hooks may be gone when backward comes
        run = self._forward if untouched else self._forward_modules
        if recompute == "full":  # adapters may drop out at random
            return checkpoint(run, x, lengths, use_reentrant=False, preserve_rng_state=not untouched)
        if recompute == "selective" and untouched and not torch.compiler.is_compiling():
            return self._forward(x, lengths, recomputed_linear_after)
        return run(x, lengths)

    def _forward(self, x: Tensor, lengths: Sequence[int] | None, after: Callable[..., Tensor] = linear_after) -> Tensor:
        qkv, first, norm1, norm2 = self.attn.qkv, self.mlp.first, self.norm1, self.norm2
        mixed = self.attn.mix(after(_pure(norm1), x, qkv.weight, qkv.bias, norm1.weight, norm1.bias), lengths)
        x = x + nn.functional.linear(mixed, *scaled(self.attn.proj, self.ls1))
        hidden = after(_pure(norm2), x, first.weight, first.bias, norm2.weight, norm2.bias)
        return x + after(self.mlp.activate, hidden, *scaled(self.mlp.last, self.ls2))

    def _forward_modules(self, x: Tensor, lengths: Sequence[int] | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), lengths))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def _is_untouched(self) -> bool:
        attn, mlp = self.attn, self.mlp
        if not (_is_own(attn) and _is_own(mlp)):
            return False  # they need not have the layers that are asked for next
        parts = (self.norm1, attn.qkv, attn.proj, self.ls1, self.norm2, mlp.first, mlp.last, self.ls2)
        return all(map(_is_own, parts))


def _is_own(part: nn.Module) -> bool:
    """Whether its tensors are all there is to it."""
    hooked = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return type(part) in OWN and not hooked and "forward" not in vars(part)


def _pure(norm: nn.LayerNorm) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A norm as a function of its input, weight and bias."""
    return lambda x, weight, bias: nn.functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def scaled(layer: nn.Linear, scale: LayerScale) -> tuple[Tensor, Tensor]:
    """Weight and bias of `scale(layer(x))` as one layer: the gradient of the scale needs no copy of the result."""
    return layer.weight * scale.gamma[:, None], layer.bias * scale.gamma
