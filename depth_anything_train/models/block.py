"""A block of the vision transformer: timm's parts and names, with a choice of what backward recomputes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import timm.layers
import timm.models.vision_transformer
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from depth_anything_train.models.attention import Attention
from depth_anything_train.runtime import UserError

Recompute = Literal["none", "selective", "full"]


class Mlp(timm.layers.Mlp):
    """Feed-forward part with GELU, in two halves: what follows the wide product is cheap to compute again."""

    fc2: nn.Linear

    def widen(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, 4 C)."""
        return self.fc1(x)

    def narrow(self, hidden: Tensor, scale: timm.layers.LayerScale) -> Tensor:
        """(B, N, 4 C) to (B, N, C), scaled."""
        return scaled(self.fc2, scale, self.act(hidden))


class SwiGLU(nn.Module):
    """Gated feed-forward part of the giant encoder, with the released names; two thirds as wide as an MLP would be."""

    def __init__(self, in_features: int, hidden_features: int, bias: bool = True, **_: Any) -> None:
        super().__init__()
        width = (int(hidden_features * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(in_features, 2 * width, bias=bias)
        self.w3 = nn.Linear(width, in_features, bias=bias)

    def widen(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, 2 width), gate and value."""
        return self.w12(x)

    def narrow(self, hidden: Tensor, scale: timm.layers.LayerScale) -> Tensor:
        """(B, N, 2 width) to (B, N, C), scaled."""
        gate, value = hidden.chunk(2, dim=-1)
        return scaled(self.w3, scale, nn.functional.silu(gate) * value)


class Block(timm.models.vision_transformer.Block):
    """Attention and feed-forward part, each after a norm, scaled and added; (B, N, C) to the same shape.

    Args:
        dim: channels C.
        num_heads: attention heads.
        ffn: `mlp` or `swiglu`.
        recompute: what backward computes again instead of storing it. `selective` leaves out the results of norms and
            activations, a third of a block's memory, and costs a tenth of the time at the tiny size; `full` keeps only
            the input of the block, for a third of the time; `none` stores everything. The numbers are the same to the
            last bit. Compiled, `selective` is `none`: the compiler chooses by itself what is cheap to compute again.
    """

    attn: Attention
    mlp: Mlp | SwiGLU
    norm1: nn.Module
    norm2: nn.Module
    ls1: timm.layers.LayerScale
    ls2: timm.layers.LayerScale

    def __init__(self, dim: int, num_heads: int, *, ffn: str = "mlp", recompute: str = "selective") -> None:
        if recompute not in get_args(Recompute):
            options = ", ".join(get_args(Recompute))
            raise UserError(f"Expected activation_checkpointing to be one of {options}, got {recompute!r}.")
        mlp = SwiGLU if ffn == "swiglu" else Mlp
        super().__init__(dim, num_heads, qkv_bias=True, init_values=1.0, mlp_layer=mlp, attn_layer=Attention)
        self.recompute = recompute

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:  # type: ignore[override]
        """Run the block; `lengths` as in `models.attention.attend`."""
        if not (self.training and torch.is_grad_enabled()):
            return self._forward(x, lengths, _now)
        if self.recompute == "full":
            return _later(self._forward, x, lengths, _now)
        selective = self.recompute == "selective" and not torch.compiler.is_compiling()
        return self._forward(x, lengths, _later if selective else _now)

    def _forward(self, x: Tensor, lengths: Sequence[int] | None, run: Callable[..., Tensor]) -> Tensor:
        qkv = run(lambda x: self.attn.qkv(self.norm1(x)), x)
        x = x + scaled(self.attn.proj, self.ls1, self.attn.mix(qkv, lengths))
        hidden = run(lambda x: self.mlp.widen(self.norm2(x)), x)
        return x + run(self.mlp.narrow, hidden, self.ls2)


def scaled(linear: nn.Linear, scale: timm.layers.LayerScale, x: Tensor) -> Tensor:
    """`scale(linear(x))` by a product of scaled weights: the gradient of the scale then needs no copy of the result."""
    return nn.functional.linear(x, linear.weight * scale.gamma[:, None], linear.bias * scale.gamma)


def _now(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


def _later(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function, keep its arguments alone, and compute in backward what its gradients need, and no more."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
