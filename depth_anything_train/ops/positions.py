"""Position embeddings on another grid than they were learnt on: three ways are in use, with three results."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from depth_anything_train.ops.precision import at_least_float32
from depth_anything_train.ops.resampling import bicubic_matrix

PositionWay = Literal["dinov2", "timm", "transformers"]

OFFSET = {"dinov2": 0.1, "timm": 0.0, "transformers": 0.0}
"""What each way adds to rows and columns before it divides by those of the native grid."""

ANTIALIASED = "timm"


def resample_positions(embedding: Tensor, grid: tuple[int, int], way: PositionWay = "dinov2") -> Tensor:
    """Bring (1, 1 + n * n, C), class token first, to a grid of (rows, columns): (1, 1 + rows * columns, C).

    All ways are bicubic in float32 and leave the native grid n x n untouched:

    - `dinov2`: by the factors (rows + 0.1) / n and (columns + 0.1) / n, which the released weights were trained with;
    - `transformers`: to the size;
    - `timm`: to the size, antialiased.
    """
    side = math.isqrt(embedding.shape[1] - 1)
    if grid == (side, side):
        return embedding
    square = at_least_float32(embedding[:, 1:]).transpose(1, 2).unflatten(2, (side, side))
    if way == "dinov2":
        factors = [(length + OFFSET[way]) / side for length in grid]
        resized = interpolate(square, scale_factor=factors, mode="bicubic")
    else:
        resized = interpolate(square, size=grid, mode="bicubic", antialias=way == ANTIALIASED)
    assert resized.shape[-2:] == grid
    return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2).to(embedding.dtype)], dim=1)


def positions_by_matrices(embedding: Tensor, grid: tuple[int, int], way: PositionWay = "dinov2") -> Tensor:
    """`resample_positions` in float32 as two matrix products, for a graph in which rows and columns are symbolic."""
    side = math.isqrt(embedding.shape[1] - 1)
    lengths = [torch.scalar_tensor(length) for length in grid]
    native = (lengths[0] == side) & (lengths[1] == side)
    rows, columns = (
        bicubic_matrix(
            count,
            side,
            torch.where(native, 1.0, side / (length + OFFSET[way])),
            antialias=way == ANTIALIASED,
        )
        for count, length in zip(grid, lengths, strict=True)
    )
    square = embedding[0, 1:].unflatten(0, (side, side))
    resampled = torch.einsum("rs,stc,ut->ruc", rows, square, columns)
    return torch.cat([embedding[:, :1], resampled.flatten(0, 1)[None]], dim=1)
