"""How uncertain a mean over images is: bootstrap confidence intervals, the same in every run.

- Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sec. 13.3 (percentile interval)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 2**22  # numbers drawn at a time, so that ten thousand images need no gigabyte


def resampled_means(values: Sequence[float], weights: Sequence[float], *, seed: int) -> NDArray[np.float64]:
    """Weighted means (RESAMPLES,) of as many images as there are, drawn with replacement.

    Args:
        values: one number an image, in an order that does not change from run to run.
        weights: what each image counts, all above 0.
        seed: equal seeds draw equal images for equal numbers of them.
    """
    numbers, counted = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    rng, count = np.random.default_rng(seed), len(numbers)
    rows = max(CHUNK // count, 1)
    means = []
    for start in range(0, RESAMPLES, rows):
        drawn = rng.integers(count, size=(min(rows, RESAMPLES - start), count))
        means.append((numbers * counted)[drawn].sum(1) / counted[drawn].sum(1))
    return np.concatenate(means)


def interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """The range that holds the middle `LEVEL` of resampled means."""
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
