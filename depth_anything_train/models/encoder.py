"""The DINOv2 vision transformer, under the parameter names of the released checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from depth_anything_train.models.attention import set_kernel
from depth_anything_train.models.block import NORM_EPS, Block
from depth_anything_train.ops.positions import PositionWay, resample_positions
from depth_anything_train.runtime import UserError, require_choice, require_count
from depth_anything_train.types import Image, Patches

FeedForward = Literal["mlp", "swiglu"]
Four = tuple[int, int, int, int]
"""A number for each of the blocks that the decoder reads, from the earliest to the last."""

RELEASED = {384: "vits", 768: "vitb", 1024: "vitl", 1536: "vitg"}
"""Names of the released sizes by their channels."""


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides an encoder's parameters and numbers.

    Args:
        name: what people call it; the released sizes are vits, vitb, vitl and vitg.
        embed_dim: channels of a token, a multiple of `num_heads`.
        depth: number of blocks.
        num_heads: attention heads.
        ffn: feed-forward part of a block: `mlp` with GELU, or `swiglu` (giant).
        taps: four 0-based blocks, ascending, whose outputs the decoder reads.
        patch_size: side of a patch in pixels.
        image_size: side of the square image, in pixels, that the position embedding belongs to.
        position: how the position embedding is brought to other sizes, see `ops.positions`.

    Raises:
        UserError: the numbers do not fit together.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    ffn: FeedForward
    taps: Four
    patch_size: int = 14
    image_size: int = 518
    position: PositionWay = "dinov2"

    def __post_init__(self) -> None:
        for key in ("embed_dim", "depth", "num_heads", "patch_size", "image_size"):
            require_count(key, getattr(self, key))
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"Expected embed_dim to be a multiple of num_heads, but got {self.embed_dim} and {self.num_heads}; "
                "change one of them."
            )
        if self.image_size % self.patch_size:
            raise UserError(
                f"Expected image_size to be a multiple of the patch size {self.patch_size}, but got {self.image_size}; "
                f"use {self.image_size // self.patch_size * self.patch_size}."
            )
        whole = all(isinstance(tap, int) for tap in self.taps)
        ascending = whole and list(self.taps) == sorted(set(self.taps))
        # A block behind the last tap would be computed for nothing, and DDP would wait for its gradient.
        if not (ascending and 0 <= self.taps[0] and self.taps[-1] == self.depth - 1):
            raise UserError(
                f"Expected taps to be four ascending blocks out of 0 to {self.depth - 1}, the last one among them, but "
                f"got {list(self.taps)}; give such a list, or last4 or spread."
            )
        require_choice("ffn", self.ffn, get_args(FeedForward))
        require_choice("position", self.position, get_args(PositionWay))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EncoderConfig:
        """Build from plain JSON, whose lists become tuples.

        Raises:
            KeyError, TypeError: a key is missing or unknown.
            UserError: the numbers do not fit together.
        """
        return cls(**{**content, "taps": four("taps", content["taps"])})


def four(key: str, values: Sequence[int]) -> Four:
    """The values as a tuple.

    Raises:
        UserError: they are more or fewer than four; `key` names them.
    """
    if len(values) != 4:
        raise UserError(f"Expected four {key}, one for each block that the decoder reads, but got {list(values)}.")
    first, second, third, last = values
    return first, second, third, last


def resolve_taps(taps: str | Sequence[int], depth: int) -> Four:
    """Turn the name of a choice of blocks into 0-based indices; a list of four indices stays what it is.

    `last4` is Depth Anything V1, `spread` is V2.

    Raises:
        UserError: the name is unknown, or the indices are not four.
    """
    if taps == "last4":
        return depth - 4, depth - 3, depth - 2, depth - 1
    if taps == "spread":
        # Quarters of the depth, except that the released V2-L reads block 4 where the rule gives 5.
        return (4, 11, 17, 23) if depth == 24 else (depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1, depth - 1)
    if isinstance(taps, str) or not all(isinstance(tap, int) for tap in taps):
        raise UserError(f"Expected taps to be last4, spread or a list of four blocks, but got {taps!r}.")
    return four("taps", taps)


class PatchEmbed(nn.Module):
    """Image (B, 3, H, W) to a token for each patch, row by row: (B, N, C)."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Image) -> Tensor:
        """Project every patch by itself."""
        return self.proj(image).flatten(2).transpose(1, 2)


class DinoV2Encoder(nn.Module):
    """Image to patch features.

    The position embedding is resampled as configured, four blocks are tapped with the final norm applied to each, and
    the unused `mask_token` keeps its place among the weights (frozen, so that DDP does not wait for its gradient).

    Args:
        config: sizes, taps and the way positions are resampled.
        activation_checkpointing: `none`, `selective` or `full`; see `models.block.Block`.
        attention: `sdpa`, torch's own kernels, or `xformers`; see `models.attention`.
    """

    def __init__(
        self, config: EncoderConfig, *, activation_checkpointing: str = "selective", attention: str = "sdpa"
    ) -> None:
        super().__init__()
        self.config = config
        dim, side = config.embed_dim, config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, ffn=config.ffn, activation_checkpointing=activation_checkpointing)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        set_kernel(self, attention)
        self._init_weights()

    def _init_weights(self) -> None:
        if self.pos_embed.is_meta:
            return  # values are to come from a file; torch would load its compiler, for seconds, to draw none
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Image) -> Patches:
        """Features of the last block after the final norm, without the class token.

        Raises:
            UserError: a side of the image is no multiple of the patch size.
        """
        return self.forward_taps(image)[1]

    def forward_taps(self, image: Image) -> tuple[list[Tensor], Patches]:
        """The four tapped blocks as maps (B, C, h, w), final norm applied to each, and what `forward` returns.

        Raises:
            UserError: a side of the image is no multiple of the patch size.
        """
        grid = self._grid(image)
        return self._features(self._run(self._embed(image, grid)), grid)

    def forward_packed(self, images: Sequence[Image]) -> list[tuple[list[Tensor], Patches]]:
        """`forward_taps` of images of several sizes at once, for each of them (1, 3, H, W).

        All tokens stand in one row, in which each image attends to itself alone: with the xformers kernel no token is
        padded and nothing waits for the largest image.

        Raises:
            UserError: a side of an image is no multiple of the patch size.
        """
        grids = [self._grid(image) for image in images]
        tokens = [self._embed(image, grid) for image, grid in zip(images, grids, strict=True)]
        lengths = [one.shape[1] for one in tokens]
        rows = [row.split(lengths, dim=1) for row in self._run(torch.cat(tokens, dim=1), lengths)]
        return [self._features(outputs, grid) for outputs, grid in zip(zip(*rows, strict=True), grids, strict=True)]

    def _run(self, tokens: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """Tokens (B, N, C) behind each tapped block, before the final norm."""
        tapped = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, lengths)
            if index in self.config.taps:
                tapped.append(tokens)
        return tapped

    def _features(self, outputs: Sequence[Tensor], grid: tuple[int, int]) -> tuple[list[Tensor], Patches]:
        """What `_run` gave for images of one size, after the final norm and without the class token."""
        tapped = [self.norm(tokens[:, 1:]) for tokens in outputs]
        # A view: channels stay innermost in memory, which is the layout that convolutions are fastest in.
        return [features.transpose(1, 2).unflatten(2, grid) for features in tapped], tapped[-1]

    def _grid(self, image: Tensor) -> tuple[int, int]:
        height, width, patch = image.shape[-2], image.shape[-1], self.config.patch_size
        if height % patch or width % patch:
            raise UserError(
                f"Expected image sides that are multiples of the patch size {patch}, but got {height} x {width}; "
                f"resize to {max(round(height / patch), 1) * patch} x {max(round(width / patch), 1) * patch}."
            )
        return height // patch, width // patch

    def _embed(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = self.patch_embed(image)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype), patches], dim=1)
        return tokens + self.positions(grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding (1, 1 + rows * columns, C) of a grid of (rows, columns), class token first."""
        return resample_positions(self.pos_embed, grid, self.config.position)
