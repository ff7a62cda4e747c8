"""Position embeddings on another grid than they were learnt on: three ways are in use, with three results."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from depth_anything_train.ops.precision import at_least_float32

PositionWay = Literal["dinov2", "timm", "transformers"]


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
        factors = [(length + 0.1) / side for length in grid]
        resized = interpolate(square, scale_factor=factors, mode="bicubic")
    else:
        resized = interpolate(square, size=grid, mode="bicubic", antialias=way == "timm")
    assert resized.shape[-2:] == grid
    return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2).to(embedding.dtype)], dim=1)
