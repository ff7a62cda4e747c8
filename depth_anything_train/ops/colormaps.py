"""Colours for maps: near is warm, far is cold, invalid is grey."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import UserError

INVALID_GREY = 200


def colorize(
    values: NDArray[np.floating],
    valid: NDArray[np.bool_] | None = None,
    *,
    colormap: str = "Spectral_r",
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Colour a map (H, W) -> RGB (H, W, 3).

    Args:
        values: disparity, an error, or any other number per pixel; not finite is invalid.
        valid: (H, W), False where the colour shall be grey; all valid when None.
        colormap: any name matplotlib knows.
        limits: values that get the first and the last colour; by default the 1st and 99th percentile of the valid
            pixels, so that one wild pixel does not take all the contrast.

    Raises:
        UserError: matplotlib knows no such colormap.
    """
    check_colormap(colormap)
    usable = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    if not usable.any():
        return np.full((*values.shape, 3), INVALID_GREY, np.uint8)
    low, high = limits if limits is not None else np.percentile(values[usable], (1, 99))
    table = matplotlib.colormaps[colormap](np.arange(matplotlib.colormaps[colormap].N), bytes=True)[:, :3]
    position = (np.where(usable, values, low) - low) / max(high - low, np.finfo(np.float32).tiny)
    index = (position * len(table)).clip(0, len(table) - 1).astype(np.intp)
    picture = table.take(index, axis=0)  # six times as fast as table[index]
    picture[~usable] = INVALID_GREY
    return picture


def color_classes(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour a map of classes (H, W) -> RGB (H, W, 3), 255 (none) grey; twenty colours, so that some come again."""
    table = np.full((256, 3), INVALID_GREY, np.uint8)
    table[:255] = matplotlib.colormaps["tab20"](np.arange(255) % 20, bytes=True)[:, :3]
    return table[classes]


def check_colormap(colormap: str) -> None:
    """Refuse a name that would fail later.

    Raises:
        UserError: matplotlib knows no such colormap.
    """
    if colormap not in matplotlib.colormaps:
        raise UserError(f"matplotlib knows no colormap {colormap!r}; try Spectral_r, magma, viridis or gray.")
