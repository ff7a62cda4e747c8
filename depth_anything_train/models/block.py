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
from depth_anything_train.models.recompute import linear_after, recomputed_linear_after
from depth_anything_train.runtime import require_choice

ActivationCheckpointing = Literal["none", "selective", "full"]


class Mlp(timm.layers.Mlp):
    """Feed-forward part with GELU, for `Block` to run: what lies between its two layers is cheap to compute again."""

    fc1: nn.Linear
    fc2: nn.Linear

    @property
    def first(self) -> nn.Linear:
        """(B, N, C) to (B, N, 4 C)."""
        return self.fc1

    @property
    def last(self) -> nn.Linear:
        """(B, N, 4 C) to (B, N, C)."""
        return self.fc2

    def activate(self, hidden: Tensor) -> Tensor:
        """What lies between them."""
        return self.act(hidden)


class SwiGLU(nn.Module):
    """Gated feed-forward part of the giant encoder, with the released names; two thirds as wide as an MLP would be."""

    def __init__(self, in_features: int, hidden_features: int, bias: bool = True, **_: Any) -> None:
        super().__init__()
        width = (int(hidden_features * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(in_features, 2 * width, bias=bias)
        self.w3 = nn.Linear(width, in_features, bias=bias)

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


OWN = (nn.Linear, timm.layers.LayerNorm, timm.layers.LayerScale, Attention, Mlp, SwiGLU)
"""Parts that a block computes with by itself."""


class Block(timm.models.vision_transformer.Block):
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

    attn: Attention
    mlp: Mlp | SwiGLU
    norm1: timm.layers.LayerNorm
    norm2: timm.layers.LayerNorm
    ls1: timm.layers.LayerScale
    ls2: timm.layers.LayerScale

    def __init__(
        self, dim: int, num_heads: int, *, ffn: str = "mlp", activation_checkpointing: str = "selective"
    ) -> None:
        require_choice("activation_checkpointing", activation_checkpointing, get_args(ActivationCheckpointing))
        mlp = SwiGLU if ffn == "swiglu" else Mlp
        super().__init__(dim, num_heads, qkv_bias=True, init_values=1.0, mlp_layer=mlp, attn_layer=Attention)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:  # type: ignore[override]
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


def scaled(layer: nn.Linear, scale: timm.layers.LayerScale) -> tuple[Tensor, Tensor]:
    """Weight and bias of `scale(layer(x))` as one layer: the gradient of the scale needs no copy of the result."""
    return layer.weight * scale.gamma[:, None], layer.bias * scale.gamma
