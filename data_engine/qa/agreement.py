"""Do labels belong to their images? Edges of depth mostly are edges of the image, and no other image has them there.

A label is compared with its own image and with others of its shard. The share of the others that it fits less well is
its agreement: evenly spread between 0 and 1 if images and labels were shuffled, close to 1 if they belong together.
Single pairs may be unlucky (a flat wall with a poster, one scene many times over), so a low agreement is a suspicion.
The mean over a folder is near 0.5 only if something is wrong with all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

GRID = 48
"""Cells a side in which image and label are averaged: coarse enough for sparse LiDAR, fine enough for objects."""

OTHERS = 32
"""Images that a label is compared with beside its own."""

FEWEST_OTHERS, FEWEST_EDGES = 8, 50
"""Fewer images, or fewer pairs of neighbouring cells with a label, say nothing; nor does a constant label."""

_UNKNOWN = np.uint16(65535)


class Edges(NamedTuple):
    """Differences of neighbouring cells, from the smallest to the largest as ranks, (2 * GRID * (GRID - 1),) uint16."""

    image: NDArray[np.uint16]
    label: NDArray[np.uint16]
    """65535 where one of the two cells has no label."""


def edges(image: NDArray[np.uint8], disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> Edges:
    """What `agreement` compares of a pair: image (H, W, 3) RGB, and a label (h, w) of any size."""
    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    weight = cv2.resize(valid.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(valid, disparity, 0), (GRID, GRID), interpolation=cv2.INTER_AREA)
    mean = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), np.nan)
    things = mean[mean > 0]
    farthest = things.min() if things.size else np.float32(1)
    logs = np.log(np.maximum(mean, farthest / 2))  # the sky, at 0, is taken for twice as far as anything else
    return Edges(_ranks(_differences(lab).sum(-1)), _ranks(_differences(logs[..., None])[..., 0]))


def _differences(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Absolute differences down and across, (GRID, GRID, C) to (2 * GRID * (GRID - 1), C)."""
    down, across = np.abs(np.diff(cells, axis=0)), np.abs(np.diff(cells, axis=1))
    return np.concatenate([down.reshape(-1, cells.shape[-1]), across.reshape(-1, cells.shape[-1])])


def _ranks(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Place of each value among the different ones: equal values share a rank, or flat parts would order by place."""
    ranks = np.unique(values, return_inverse=True)[1].astype(np.uint16)
    ranks[~np.isfinite(values)] = _UNKNOWN
    return ranks


def agreement(pairs: Sequence[Edges]) -> list[float | None]:
    """Share of the other images that each label fits less well than its own, 0 to 1; None where it cannot be told.

    The others stand at even distances, so that the frames of a video are not compared with their neighbours alone.
    """
    count = min(OTHERS, len(pairs) - 1)
    if count < FEWEST_OTHERS:
        return [None] * len(pairs)
    steps = [round(k * len(pairs) / (count + 1)) for k in range(count + 1)]  # the first is 0: its own
    images = np.stack([pair.image for pair in pairs])
    return [_share(pair.label, images[(np.array(steps) + i) % len(pairs)]) for i, pair in enumerate(pairs)]


def _share(label: NDArray[np.uint16], images: NDArray[np.uint16]) -> float | None:
    """Of all images but the first, those whose edges correlate less with the label's than the first one's."""
    known = label != _UNKNOWN
    if known.sum() < FEWEST_EDGES or not np.ptp(label[known]):
        return None
    fit = _standard(images[:, known].astype(np.float32)) @ _standard(label[known].astype(np.float32)[None])[0]
    return float((fit[1:] < fit[0]).mean())


def _standard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = rows - rows.mean(1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-9))
