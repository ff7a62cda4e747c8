"""Pairs of points of which people said which is nearer, as in DA-2K: the share that a prediction gets right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.metrics.protocol import Family
from depth_anything_train.runtime import UserError

Pair = dict[str, list[int]]
"""`nearer` and `farther`, each [row, column] in pixels of the image, from 0."""


@dataclass(frozen=True)
class PairProtocol:
    """Everything that decides an accuracy on pairs apart from the model and the images.

    A pair is right where the predicted inverse depth of the nearer point is larger. The prediction is brought to the
    image's size first; a tie is wrong, since a constant map would else be right everywhere. The other
    settings are as in `Protocol`.
    """

    name: str = "pairs"
    family: Family = "own"
    flip: bool = False
    size: int | None = None
    images: int | None = None
    split: str = ""
    prepare: str = ""
    url: str = ""

    pooled = True
    """Every pair counts the same, in whatever test set it is."""

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise UserError(f"Expected family to be one of {', '.join(get_args(Family))}, got {self.family!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, in the order of the fields."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """One line for captions: everything that decides the number."""
        return (
            f"protocol {self.name}: {f'split {self.split}; ' if self.split else ''}right where inverse depth is larger "
            "at the nearer point, ties are wrong; prediction at the image's size (bilinear); "
            f"{'mean of image and mirror image; ' if self.flip else ''}"
            f"network at {f'{self.size} pixels' if self.size else 'its own size'}; mean over all pairs"
        )


def pair_accuracy(disparity: NDArray[np.floating], pairs: Sequence[Pair]) -> float:
    """Share of pairs in percent whose nearer point has the larger disparity (H, W).

    Raises:
        UserError: the prediction is not finite at a point.
    """
    nearer, farther = (np.array([disparity[tuple(pair[role])] for pair in pairs]) for role in ("nearer", "farther"))
    if not (np.isfinite(nearer).all() and np.isfinite(farther).all()):
        raise UserError("Expected a finite prediction, got NaN or infinity; the model's weights are damaged.")
    return 100.0 * float((nearer > farther).mean())
