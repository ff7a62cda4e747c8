"""Does a metric prediction have the unit of its label? The median ratio of both shows what an average hides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FAR_FROM_ONE = 2.0
NEAR_A_FACTOR = 1.3
AGREEING = 1.5
"""A wrong unit is one factor for all images: the quartiles of their ratios are closer than this."""
FACTORS = {
    1000.0: "millimetres taken for metres",
    100.0: "centimetres taken for metres",
    256.0: "a PNG of KITTI, stored as metres * 256, without the division",
    5000.0: "a PNG of TUM, stored as metres * 5000, without the division",
    10.0: "a PNG divided by 1,000 instead of 10,000, or the other way round",
}

MODEL = "a model that is hardly trained, or made for another range or focal length"


def median_ratio(
    disparity: NDArray[np.floating], label: NDArray[np.floating], valid: NDArray[np.bool_]
) -> float | None:
    """Median of predicted depth / true depth over the labelled pixels of one image, whatever the range of a protocol.

    Args:
        disparity: predicted inverse depth (H, W) in 1/m.
        label: true inverse depth (H, W) in 1/m; 0 is sky.
        valid: (H, W), True where the label may be used.

    Returns:
        The ratio; None where no pixel has a depth.
    """
    with np.errstate(invalid="ignore"):
        known = valid & np.isfinite(label) & (label > 0) & (disparity > 0)
    return float(np.median(label[known].astype(np.float64) / disparity[known])) if known.any() else None


def unit_warning(ratios: Sequence[float]) -> str | None:
    """The causes to look at, the likelier first, when the median over images of `median_ratio` is far from 1.

    None when it is not. A model that has learnt little is off by any factor, 10 and 100 included, and differently from
    image to image.
    """
    if not ratios:
        return None
    ratio = float(np.median(ratios))
    if 1 / FAR_FROM_ONE < ratio < FAR_FROM_ONE:
        return None
    factor = max(ratio, 1 / ratio)
    near = min(FACTORS, key=lambda known: abs(math.log(factor / known)))
    usual = abs(math.log(factor / near)) < math.log(NEAR_A_FACTOR)
    known = f"near {near:g} ({FACTORS[near]})" if usual else "near no usual factor"
    unit = f"a wrong unit ({'predictions' if ratio > 1 else 'labels'} are {factor:.4g} times too large, {known})"
    low, high = np.quantile(ratios, (0.25, 0.75))
    first, second = (unit, MODEL) if usual and high / low < AGREEING else (MODEL, unit)
    return f"Predicted depth / label is {ratio:.3g} in the median of the images: likely {first}, else {second}."
