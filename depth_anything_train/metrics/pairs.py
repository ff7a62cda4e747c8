"""Pairs of points, annotated by people with which is nearer, as in DA-2K: the share that a prediction gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.ops.finite import check_finite

Pair = dict[str, list[int]]
"""`nearer` and `farther`, each [row, column] in pixels of the image, from 0."""


@dataclass(frozen=True)
class PairProtocol(EvaluationProtocol):
    """How pairs of points are judged.

    A pair is right where the predicted inverse depth of the nearer point is larger. The prediction is brought to the
    image's size first; a tie is wrong, since a constant map would else be right everywhere.
    """

    name: str = "pairs"

    pooled = True

    def describe(self, size: Any = None) -> str:
        """One line for captions: everything that decides the number; `size` was asked for instead of the protocol's."""
        return (
            f"protocol {self.name}: {f'split {self.split}; ' if self.split else ''}right where inverse depth is larger "
            "at the nearer point, ties are wrong; prediction at the image's size (bilinear); "
            f"{self.seen(size)}; mean over all pairs"
        )


def pair_accuracy(disparity: NDArray[np.floating], pairs: Sequence[Pair]) -> float:
    """Share of pairs in percent whose nearer point has the larger disparity (H, W).

    Raises:
        UserError: the prediction is not finite at a point.
    """
    nearer, farther = (np.array([disparity[tuple(pair[role])] for pair in pairs]) for role in ("nearer", "farther"))
    check_finite(nearer, farther)
    return 100.0 * float((nearer > farther).mean())
