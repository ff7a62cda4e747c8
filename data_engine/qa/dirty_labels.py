"""Dirty labels: what is wrong with one, and which are odd among many. Pure functions: numbers in, reasons out.

| reason              | the label                                                                                    |
|---------------------|----------------------------------------------------------------------------------------------|
| `negative_values`   | holds many negative numbers that are no mere marks such as -1: it is something else          |
| `nearly_empty`      | has hardly a valid pixel                                                                     |
| `constant_label`    | is the same nearly everywhere, which teaches no shape                                        |
| `implausible_scale` | is said to be in metres, but its median is none that a photograph has: wrong `scale`         |
| `outlying_scale`    | has a median far off those of its data set: a label in another unit among them               |

`prepare` counts the first four as notes, because what is dirty is a matter of limits that may be moved; `verify` finds
all of them, and lists them for training to leave out. Whether a label belongs to its image: `data_engine.qa.agreement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.labels import read_npy
from depth_anything_train.data.schema import Encoded, Label
from depth_anything_train.runtime import UserError

ENOUGH = 20
"""Labels of one data set below which none is judged by the others."""

MARKS = 4
"""As many different negative numbers may be marks of what was not measured, as MegaDepth has them."""

SAMPLE = 50_000
"""Pixels of a label whose percentiles are taken for those of all."""


@dataclass(frozen=True)
class Limits:
    """When a label counts as dirty. All of them are our choice; photographs with sparse LiDAR pass.

    Args:
        min_valid: smallest share of valid pixels.
        max_negative: largest share of pixels with negative values that are no marks. They are never trained on; in
            number they say that the label is not what it is taken for.
        min_range: smallest difference of the 98th and 2nd percentile of disparity, as a share of the median.
        nearest_m, farthest_m: where the median depth of a label in metres may lie.
        scale_factor: a median is odd if it is at least this factor off the middle of its data set,
        scale_sigmas: and at least so many standard deviations (of the logarithm, robustly estimated).
        mismatch: largest agreement of a label with its own image at which they are suspected of not belonging
            together; see `agreement`. 0 suspects none.

    Raises:
        UserError: a limit that cannot be met.
    """

    min_valid: float = 0.001
    max_negative: float = 0.01
    min_range: float = 0.01
    nearest_m: float = 0.05
    farthest_m: float = 500.0
    scale_factor: float = 10.0
    scale_sigmas: float = 5.0
    mismatch: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.min_valid, self.max_negative, self.mismatch)
        if not (all(0 <= share <= 1 for share in shares) and 0 <= self.nearest_m < self.farthest_m):
            raise UserError(f"Expected shares from 0 to 1 and nearest_m below farthest_m in limits, but got {self}.")
        if self.scale_factor <= 1 or self.scale_sigmas < 0:
            raise UserError(f"Expected limits.scale_factor above 1 and scale_sigmas of 0 or more, but got {self}.")


class Diagnosis(NamedTuple):
    """Something wrong with a label: a short slug, and a sentence for a person."""

    reason: str
    message: str


def examine(extension: str, data: Encoded, meta: dict[str, Any], label: Label, limits: Limits) -> Iterator[Diagnosis]:
    """What is wrong with one label by itself.

    Args:
        extension, data, meta: the label as the shard holds it.
        label: the same, decoded.
        limits: what counts as wrong.
    """
    disparity, valid = label
    negative = negative_share(read_npy(data)) if extension.endswith("npy") else 0.0
    if negative > limits.max_negative:
        yield Diagnosis("negative_values", f"{negative:.1%} of the stored values are negative.")
    share = float(valid.mean())
    if share < limits.min_valid:
        yield Diagnosis("nearly_empty", f"Only {share:.2%} of the pixels are valid.")
    known = measured(label)
    if not known.size:
        yield Diagnosis("constant_label", "There is nothing but sky.")
        return
    low, median, high = np.percentile(known, (2, 50, 98)).tolist()
    if high - low < limits.min_range * median:
        yield Diagnosis("constant_label", f"Nearly all disparities are equal, {low:.4g} to {high:.4g}.")
    depth_m = 1 / median
    if meta.get("unit") == "m" and not limits.nearest_m <= depth_m <= limits.farthest_m:
        yield Diagnosis("implausible_scale", f"The median depth would be {depth_m:.4g} m; is the scale right?")


def negative_share(stored: NDArray[Any]) -> float:
    """Share of negative numbers; 0 where they are few different ones, which are marks of what was not measured."""
    negative = stored[stored < 0]
    return negative.size / stored.size if len(np.unique(negative[:SAMPLE])) > MARKS else 0.0


def measured(label: Label) -> NDArray[np.float32]:
    """The valid disparities without the sky, which says nothing about scale: evenly picked ones if they are many."""
    disparity, valid = label
    known = disparity[valid & (disparity > 0)]
    return known[:: -(-known.size // SAMPLE) or 1]


def typical_disparity(label: Label) -> float | None:
    """Median disparity without the sky, or None where there is none."""
    known = measured(label)
    return float(np.median(known)) if known.size else None


def outlying(typical: NDArray[np.float64], limits: Limits) -> NDArray[np.float64]:
    """How far each label of a data set is from the median of all, as a factor >= 1; 0 for those that are not odd.

    Args:
        typical: `typical_disparity` of each label, (n,); fewer than `ENOUGH` judge nobody.
        limits: what counts as odd.
    """
    if len(typical) < ENOUGH:
        return np.zeros(len(typical))
    off = np.abs(np.log(typical) - np.median(np.log(typical)))
    sigma = 1.4826 * np.median(off)  # of a normal distribution, from its median absolute deviation
    odd = off > max(np.log(limits.scale_factor), limits.scale_sigmas * sigma)
    return np.where(odd, np.exp(off), 0)
