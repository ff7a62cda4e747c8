"""Statistics over the valid pixels of each image: batched, by selection instead of sorting, without a host sync.

Every function reduces all dimensions but the first and keeps them, so a result broadcasts against its input.
What stands at an invalid pixel, NaN included, reaches neither a value nor a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid pixels, (B, ...) to (B, 1, ...); 0 for an image without any."""
    axes = tuple(range(1, x.ndim))
    total = x.where(valid, 0.0).sum(dim=axes, keepdim=True)
    return total / valid.sum(dim=axes, keepdim=True).clamp(min=1)


def masked_medians(maps: Sequence[Tensor], valid: Sequence[Tensor]) -> list[Tensor]:
    """Lower medians over valid pixels of several batches of one shape, (B, ...) to (B, 1, ...); 0 of an image without.

    The gradient goes to the one pixel that is the median. All in one search: a GPU gives each image one multiprocessor.
    """
    with torch.no_grad():
        flat = torch.cat([x.flatten(1).where(ok.flatten(1), torch.nan) for x, ok in zip(maps, valid, strict=True)])
        median, position = nanmedian(flat)
    found = zip(maps, position.chunk(len(maps)), median.isnan().chunk(len(maps)), strict=True)
    medians = [x.flatten(1).gather(1, at).where(~empty, 0.0) for x, at, empty in found]
    return [median.reshape(-1, *[1] * (maps[0].ndim - 1)) for median in medians]


def nanmedian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Lower medians (B, 1) of the numbers in (B, N), NaN where there is none, and where they stand."""
    # Of equal values torch's search on a GPU takes any one, and is refused where every run has to be the same.
    sorts = x.is_cuda and torch.are_deterministic_algorithms_enabled()
    return _median_by_sorting(x) if sorts else x.nanmedian(dim=1, keepdim=True)


def _median_by_sorting(x: Tensor) -> tuple[Tensor, Tensor]:
    values, order = x.sort(dim=1, stable=True)  # NaN comes last
    middle = (((~x.isnan()).sum(dim=1, keepdim=True) - 1) // 2).clamp(min=0)
    return values.gather(1, middle), order.gather(1, middle)


def masked_quantile(x: Tensor, valid: Tensor, q: float) -> Tensor:
    """The element of rank ceil(q n) among the n valid pixels, for q in [0.5, 1); (B, ...) to (B, 1, ...), no gradient.

    That element is the median once 2 ceil(q n) - 1 - n infinities are added, so one selection finds it although n
    differs from image to image. NaN for an image without valid pixels.
    """
    assert 0.5 <= q < 1
    with torch.no_grad():
        flat = x.flatten(1).where(valid.flatten(1), torch.nan)
        count = valid.flatten(1).sum(dim=1, keepdim=True)
        # In whole numbers, ceil(q n) = n - floor((1 - q) n): rounding could put the product just above an integer.
        rank = count - count * round((1 - q) * 1_000_000) // 1_000_000
        added = 2 * rank - 1 - count
        room = torch.arange(int((2 * q - 1) * flat.shape[1]) + 1, device=x.device)
        padding = torch.full_like(room, torch.inf, dtype=x.dtype).where(room < added, torch.nan)
        quantile, _ = nanmedian(torch.cat([flat, padding], dim=1))
    return quantile.reshape(-1, *[1] * (x.ndim - 1))
