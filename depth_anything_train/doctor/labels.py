"""Do the labels look like labels? Some samples of each source: a table of numbers and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import PSEUDO_LABELS, BadSample
from depth_anything_train.data.sources import Source
from depth_anything_train.doctor.outcome import Outcome
from depth_anything_train.files import write_bytes
from depth_anything_train.ops.colormaps import INVALID_GREY, colorize
from depth_anything_train.ops.png import encode_png
from depth_anything_train.ops.sampling import evenly

FEW_VALID = 0.05
CONSTANT, ABSURD = 1.01, 1e4
"""Ratios of the 98th to the 2nd percentile of disparity: photographs lie between (0.5 m to 500 m is 1,000)."""

HEIGHT, CAPTION, GAP, COLUMNS = 160, 36, 12, 2
"""Of the picture: pixels of a row, of the text above it and between rows; rows side by side."""


@dataclass(frozen=True)
class Seen:
    """One label: where it is from, its numbers, what is odd about it, and a row of the picture (h, w, 3)."""

    source: str
    key: str
    unit: str
    valid_share: float
    low: float
    high: float
    doubts: tuple[str, ...]
    row: NDArray[np.uint8] | None


def look(source: Source, count: int) -> Iterator[Seen]:
    """`count` samples, evenly spread over all folders of a source."""
    for index in evenly(len(source), count):
        folder, number = source.locate(index)
        name, key = source.name_of(index), f"sample {number}"
        try:
            record = source.folders[folder][number]
            key = record.key
            image = decode_image(source.images[folder][number].image)
            label = decode_label(*record.label(), record.meta)
        except BadSample as error:
            doubts = (f"cannot be read ({error.reason})",)
            yield Seen(name, key, "", 0.0, 0.0, 0.0, doubts, None)
            continue
        unit = "a teacher's" if source.kind == PSEUDO_LABELS else str(record.meta.get("unit") or "none")
        yield judge(name, key, unit, image, *label)


def judge(
    source: str,
    key: str,
    unit: str,
    image: NDArray[np.uint8],
    disparity: NDArray[np.float32],
    valid: NDArray[np.bool_],
) -> Seen:
    """The numbers of one label (H, W) and what is odd about them."""
    known = disparity[valid & (disparity > 0)]
    low, high = np.percentile(known, (2, 98)).tolist() if known.size else (0.0, 0.0)
    doubts = []
    if valid.mean() < FEW_VALID:
        doubts.append(f"only {valid.mean():.1%} valid")
    if known.size and high < CONSTANT * low:
        doubts.append("constant")
    if known.size and high > ABSURD * low:
        doubts.append(f"range ratio {high / low:.0g}")
    if not known.size:
        doubts.append("nothing but sky" if valid.any() else "nothing valid")
    return Seen(source, key, unit, float(valid.mean()), low, high, tuple(doubts), _row(image, disparity, valid))


def check_labels(seen: Sequence[Seen], picture: Path) -> Outcome:
    """Judge what was looked at and write the picture: image, label, valid pixels."""
    if any(one.row is not None for one in seen):
        write_bytes(picture, encode_png(draw(seen)))
    doubtful = [one for one in seen if one.doubts]
    listed = "; ".join(f"{one.source} {one.key}: {', '.join(one.doubts)}" for one in doubtful[:5])
    found = f"{len(seen)} samples, see {picture} (image, label, valid)"
    if sum(one.valid_share == 0 for one in seen) > len(seen) / 2:
        return Outcome("labels", "failed", f"{found}. Most cannot be used: {listed}. See `depth-anything verify`.")
    if doubtful:
        return Outcome("labels", "warning", f"{found}. Odd: {listed}. `depth-anything verify` judges all of them.")
    return Outcome("labels", "ok", f"{found}; none is odd.")


def table(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """One entry a data set and unit, samples looked at, mean share of valid pixels, range of disparity."""
    groups: dict[tuple[str, str], list[Seen]] = {}
    for one in seen:
        groups.setdefault((one.source, one.unit), []).append(one)
    return [
        {
            "source": name,
            "unit": unit,
            "samples": len(group),
            "valid": float(np.mean([one.valid_share for one in group])),
            "low": min(one.low for one in group),
            "high": max(one.high for one in group),
        }
        for (name, unit), group in groups.items()
    ]


def draw(seen: Sequence[Seen]) -> NDArray[np.uint8]:
    """All rows in two columns, each under a line of text; what is odd stands there in red."""
    tiles = [np.vstack([_caption(one, one.row.shape[1]), one.row]) for one in seen if one.row is not None]
    width = max(tile.shape[1] for tile in tiles) + GAP
    padded = [np.pad(x, ((0, GAP), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in tiles]
    padded += [np.full_like(padded[0], 255)] * (len(padded) % COLUMNS)
    return np.vstack([np.hstack(padded[k : k + COLUMNS]) for k in range(0, len(padded), COLUMNS)])


def _caption(one: Seen, width: int) -> NDArray[np.uint8]:
    strip = np.full((CAPTION, width, 3), 255, np.uint8)
    text = f"{one.source} {one.key}, {one.valid_share:.0%} valid"
    for line, color, place in ((text, (60, 60, 60), 14), (", ".join(one.doubts), (190, 20, 20), 30)):
        cv2.putText(strip, line, (2, place), cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
    return strip


def _row(image: NDArray[np.uint8], disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Image, label, and the image where the label is valid."""
    width = max(round(image.shape[1] * HEIGHT / image.shape[0]), 1)

    def fit(picture: NDArray[np.uint8], how: int = cv2.INTER_AREA) -> NDArray[np.uint8]:
        return cv2.resize(picture, (width, HEIGHT), interpolation=how).astype(np.uint8)

    known = fit(valid.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)
    seen = np.where(known[..., None], fit(image), np.uint8(INVALID_GREY))
    return np.hstack([fit(image), fit(colorize(disparity, valid)), seen])
