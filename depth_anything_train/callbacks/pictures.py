"""Batches as pictures: a row an image, its maps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depth_anything_train.ops.colormaps import color_classes, colorize
from depth_anything_train.types import Batch

LARGEST = 16
"""Images of a stream in one picture."""


def draw_batch(batch: Batch, predictions: Mapping[str, Tensor] | None = None) -> NDArray[np.uint8]:
    """RGB picture of a batch: image, label (grey where invalid), and prediction if there is one for its stream.

    Args:
        batch: the batch of each stream, by the stream's name.
        predictions: stream -> disparity (n, 1, H, W) of its first n images; only those are drawn then.
    """
    rows = []
    for stream, content in batch.items():
        images = content["image"].permute(0, 2, 3, 1).cpu().numpy()
        maps = [_colours(content)]
        if predictions is not None:
            maps.append([colorize(x) for x in predictions[stream].float().cpu().numpy()[:, 0]])
        rows += [np.hstack(row) for row in zip(images[:LARGEST], *maps, strict=False)]
    return np.vstack(rows)


def _colours(content: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    if "classes" in content:
        return [color_classes(x) for x in content["classes"].cpu().numpy()]
    disparity, valid = (content[quantity].cpu().numpy()[:, 0] for quantity in ("disparity", "valid"))
    return [colorize(x, known) for x, known in zip(disparity, valid, strict=True)]
