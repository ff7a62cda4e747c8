"""What a person wants to know about one label, as numbers: pure functions of what is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import read_header
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import BadSample, Record

SPARSE = 4096
"""Pixels of a label, about, that a score looks at."""


@dataclass(frozen=True)
class LabelFacts:
    """One label and its image; what has no value is NaN.

    Attributes:
        shard, number, key: where the label lies.
        stored: bytes in the shard.
        valid_share: share of the label's pixels that are valid.
        middle: median of the valid disparities.
        extent: difference between their 98th and 2nd percentile.
        side, aspect: shorter side of the image in pixels, width / height.
        scores: how suspicious the label is, by reason; see `suspicions`.
    """

    shard: int
    number: int
    key: str
    stored: int
    valid_share: float
    middle: float
    extent: float
    side: float
    aspect: float
    scores: dict[str, float]


def facts(shard: int, number: int, stored: int, record: Record, image: Record) -> LabelFacts:
    """Decode a label and look at it; of its image only the header is read.

    Raises:
        BadSample: the label cannot be decoded.
    """
    disparity, valid = decode_label(*record.label(), record.meta)
    known = disparity[valid]
    low, middle, high = np.percentile(known, (2, 50, 98)).tolist() if known.size else [np.nan] * 3
    height, width = _size(image)
    return LabelFacts(
        shard=shard,
        number=number,
        key=record.key,
        stored=stored,
        valid_share=float(valid.mean()),
        middle=middle,
        extent=high - low,
        side=min(height, width),
        aspect=width / height,
        scores=suspicions(disparity, valid),
    )


def _size(image: Record) -> tuple[float, float]:
    try:
        header = read_header(image.image)
    except BadSample:
        return np.nan, np.nan
    return header.height, header.width


def suspicions(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> dict[str, float]:
    """How suspicious a label (H, W) is, from 0 to 1 by reason.

    `invalid`: share of pixels without a value. `flat`: how little of the nearest disparity its range is; 1 is
    constant. `spikes`: share of the whole range that the outermost percent of the pixels needs. `ramp`: share of the
    variance that a tilted plane explains; 1 is a label that says nothing else.
    """
    step = max(int((disparity.size / SPARSE) ** 0.5), 1)
    rows, columns = np.nonzero(valid[::step, ::step])
    known = disparity[::step, ::step][rows, columns].astype(np.float64)
    scores = {"invalid": 1 - float(valid.mean())}
    if known.size < 3:
        return scores
    low, far, near, high = np.percentile(known, (0.5, 5, 95, 99.5))
    whole = float(np.ptp(disparity[valid]))
    scores["flat"] = float(1 - (near - far) / near) if near > 0 else 1.0
    if whole > 0 and known.std() > 0:
        scores["spikes"] = float(1 - (high - low) / whole)
        plane = np.stack([rows, columns, np.ones(len(rows))], axis=1)
        left = known - plane @ np.linalg.lstsq(plane, known, rcond=None)[0]
        scores["ramp"] = float(1 - left.var() / known.var())
    return scores
