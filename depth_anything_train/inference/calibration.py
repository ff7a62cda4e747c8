"""Metres by measuring: some points of a photograph whose depth is known bring its prediction to metres."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.runtime import UserError

Points = NDArray[np.float64]
"""(N, 3): column and row of a pixel, the first one 0 and 0, and its depth along the optical axis in metres."""

COLUMNS = ("photo", "x", "y", "metres")
OUTLIER = 0.25  # relative error beyond which a point is wrong, however far
MOST_POINTS = 200  # that are fitted; two numbers do not need more, and every pair of points is tried


@dataclass(frozen=True)
class Calibration:
    """Brings a prediction to metres: 1 / metres = scale * disparity + shift.

    `error` is the median over the measured points of |metres - measured| / measured.
    """

    scale: float
    shift: float
    error: float

    def __call__(self, prediction: Prediction) -> Prediction:
        """The prediction in metres; infinite where the disparity comes out as 0 or less."""
        disparity = self.scale * prediction.disparity.astype(np.float64) + self.shift
        metres = np.divide(1, disparity, out=np.full(disparity.shape, np.inf), where=disparity > 0)
        return replace(prediction, values=metres.astype(np.float32), kind="metric")


def calibrate(prediction: Prediction, points: Points) -> Calibration:
    """Fit a relative prediction by scale and shift of its disparity, a metric one by its scale, to measured points.

    What is smallest for a relative one is the sum of the points' relative errors in inverse depth, of which none counts
    more than `OUTLIER`: a wrong point cannot pull the fit away from the others.

    Args:
        prediction: (H, W), of the photograph.
        points: at least two for a relative prediction, one for a metric one.

    Raises:
        UserError: there are fewer, one is no point of the photograph, near and far are the other way round, or the fit
            is infinite.
    """
    points = np.asarray(points, np.float64)
    least = 1 if prediction.kind == "metric" else 2
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < least:
        raise UserError(
            f"Expected at least {least} measured points (N, 3) for a {prediction.kind} prediction, but got "
            f"{points.shape}."
        )
    if not (np.isfinite(points).all() and (points[:, 2] > 0).all()):
        raise UserError("Expected measured points of finite numbers with metres above 0, but got others.")
    height, width = prediction.values.shape
    columns, rows = np.rint(points[:, :2].T)
    outside = (columns < 0) | (columns >= width) | (rows < 0) | (rows >= height)
    if outside.any():
        x, y = points[outside][0, :2]
        raise UserError(f"Expected measured points inside of {width} x {height} pixels, but got x={x:g}, y={y:g}.")
    disparity, metres = prediction.disparity[rows.astype(int), columns.astype(int)].astype(np.float64), points[:, 2]
    with np.errstate(all="ignore"):
        if prediction.kind == "metric":
            scale, shift = float(np.median(1 / (metres * disparity))), 0.0
        else:
            step = math.ceil(len(points) / MOST_POINTS)
            scale, shift = _line(disparity[::step], metres[::step])
        found = 1 / np.maximum(scale * disparity + shift, 0)
        error = float(np.median(np.abs(found / metres - 1)))
    if not np.isfinite((scale, shift, error)).all():
        raise UserError("Expected measured points that a line can be fitted to, but these give no finite one.")
    return Calibration(scale, shift, error)


def _line(disparity: NDArray[np.float64], metres: NDArray[np.float64]) -> tuple[float, float]:
    """Scale > 0 and shift of the line through two of the points that has the smallest sum of errors."""
    one, other = np.triu_indices(len(metres), k=1)
    run, rise = disparity[one] - disparity[other], 1 / metres[one] - 1 / metres[other]
    rising = run * rise > 0
    if not rising.any():
        raise UserError(
            f"Expected measured points at two depths at least, the nearer ones where the prediction is nearer, but the "
            f"{len(metres)} points do not fit it so; are x and y the column and the row?"
        )
    scales = rise[rising] / run[rising]
    shifts = 1 / metres[one[rising]] - scales * disparity[one[rising]]
    errors = np.abs(metres * (scales[:, None] * disparity + shifts[:, None]) - 1)
    best = np.minimum(errors, OUTLIER).sum(axis=1).argmin()
    return float(scales[best]), float(shifts[best])


def read_points(path: str | Path, photos: Collection[str]) -> dict[str, Points]:
    """Measured points by photograph from a CSV file with the columns photo, x, y, metres.

    Args:
        path: the file.
        photos: names that photographs may have in it.

    Raises:
        UserError: it cannot be read, lacks a column, holds no numbers, or names a photograph that is not there.
    """
    found: dict[str, list[list[float]]] = defaultdict(list)
    try:
        with open(Path(path).expanduser(), newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(f"Expected the columns {', '.join(COLUMNS)} in {path}, but {missing[0]} is missing.")
            for row in reader:
                where = f"line {reader.line_num} of {path}"
                if row["photo"] not in photos:
                    raise UserError(f"Expected a photograph of the source in {where}, but got {row['photo']!r}.")
                found[row["photo"]].append(_numbers(row, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no CSV file in UTF-8 ({error})"
        raise UserError(f"Expected measured points in {path}, but it cannot be read: {reason}.") from None
    return {photo: np.array(rows) for photo, rows in found.items()}


def _numbers(row: dict[str, str], where: str) -> list[float]:
    try:
        numbers = [float(row[name]) for name in COLUMNS[1:]]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or numbers[2] <= 0:
        raise UserError(f"Expected x, y and metres above 0 as numbers in {where}, but got {row}.")
    return numbers
