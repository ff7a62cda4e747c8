"""Results of a model on test sets: means that do not depend on the order, and their tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.files import csv_text, read_json
from depth_anything_train.metrics.bootstrap import interval, resampled_means
from depth_anything_train.metrics.functional import HIGHER_IS_BETTER, RATIO_METRICS, UNIT_METRICS
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.metrics.units import unit_warning
from depth_anything_train.runtime import UserError, differences, keyed_seed

RESULTS_FILE = "results.json"
"""In the folder of an evaluation: written last, its means and everything that decided them."""

IN_DISPARITY = ("abs_rel_disparity", "delta1_disparity")
METRICS = ("abs_rel", *IN_DISPARITY, *[name for name in RATIO_METRICS if name != "abs_rel"], *UNIT_METRICS, "accuracy")
TITLES = {
    "abs_rel": "AbsRel",
    "abs_rel_disparity": "AbsRel (disparity)",
    "delta1": "δ1",
    "delta1_disparity": "δ1 (disparity)",
    "delta2": "δ2",
    "delta3": "δ3",
    "rmse_log": "RMSE log",
    "silog": "SILog",
    "log10": "log10",
    "rmse": "RMSE (m)",
    "sq_rel": "SqRel (m)",
    "accuracy": "accuracy (%)",
}
LEADING = ("abs_rel", "delta1", "accuracy")
COUNTS = ("pixels", "pairs")
SEED = 0  # of the confidence intervals

Measures = dict[str, float]
Intervals = dict[str, tuple[float, float]]


class _Stored(dict[str, Any]):
    """An object of a results.json: people write such files, and older versions wrote fewer keys."""

    def __init__(self, content: Mapping[str, Any], file: Path) -> None:
        inner = {key: _Stored(value, file) if isinstance(value, dict) else value for key, value in content.items()}
        super().__init__(inner)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise UserError(f"Expected the key {key} in {self.file}, which lacks it; delete that file and evaluate again.")


def other_setup(judged: Mapping[str, Any], setup: Mapping[str, Any]) -> str:
    """How the setup of a model that was evaluated differs, as a phrase; "" where it does not, or is not on record."""
    told = [f"{key} was {before}, is {now}" for key, before, now in differences(judged.get("setup", setup), setup)]
    return f"the same weights in another setup ({', '.join(told)})" if told else ""


def read_results(folder: Path, *, keys: Mapping[str, type]) -> dict[str, Any]:
    """The content of a folder's results.json; `keys` as those of `read_json`.

    Raises:
        UserError: the file is missing, damaged or lacks one of `keys`, or, wherever it is asked for, any other key.
    """
    return _Stored(read_json(folder / RESULTS_FILE, keys=keys), folder / RESULTS_FILE)


def titled(metric: str, title: str | None = None) -> str:
    """The title of a metric, or the one given, with an arrow up where higher is better and down where lower is."""
    return f"{title or TITLES[metric]} {'↑' if metric in HIGHER_IS_BETTER else '↓'}"


@dataclass(frozen=True)
class ImageResult:
    """The numbers of one image under a protocol; `origin` is the name of its data and its position in it."""

    group: str
    key: str
    measures: Measures
    origin: tuple[str, int] | None = field(default=None, compare=False)

    @property
    def weight(self) -> int:
        """What it counts in the mean of its test set: 1, or as many as it has pairs."""
        return int(self.measures.get("pairs", 1))


@dataclass
class Results:
    """Results of a model under one protocol; all means are the same numbers in whatever order the images came.

    `ratios` are the median ratios of a metric prediction to its label, image by image; see `metrics/units.py`. `size`
    is that at which the network was to see the images; None is the protocol's, or its own.
    """

    protocol: EvaluationProtocol
    images: list[ImageResult] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    size: Any = None

    @property
    def caption(self) -> str:
        """Everything that decides the numbers, in a line."""
        return self.protocol.describe(self.size)

    @property
    def counted(self) -> str:
        """How many images were judged, and how many the protocol has, where that is another number."""
        wanted, found = self.protocol.images, len(self.images)
        return f"{found} images" + (f" instead of the {wanted} of the protocol" if wanted not in (None, found) else "")

    @property
    def members(self) -> dict[str, list[ImageResult]]:
        """The images of each test set, by name."""
        members: dict[str, list[ImageResult]] = {}
        for result in sorted(self.images, key=lambda result: (result.group, result.key)):
            members.setdefault(result.group, []).append(result)
        return members

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers has to know beside them: what was left out, and a unit that looks wrong."""
        warning = unit_warning(self.ratios)
        remarks = [f"Skipped: {listed(self.skipped)}."] if self.skipped else []
        for count in sorted(set(self.partial.values())):
            titles = " and ".join(TITLES[name] for name, images in self.partial.items() if images == count)
            remarks.append(f"{titles}: mean over {count} of {len(self.images)} images, whose labels are in metres.")
        return remarks + ([f"Warning: {warning}"] if warning else [])

    @property
    def partial(self) -> dict[str, int]:
        """Metrics that some images have and some have not, and how many have them."""
        counts = {name: sum(name in image.measures for image in self.images) for name in METRICS}
        return {name: count for name, count in counts.items() if 0 < count < len(self.images)}

    def groups(self) -> dict[str, Measures]:
        """Per test set, by name: the mean over its images of every measure, and `images`, how many there are."""
        return {name: {"images": len(images)} | _means(images) for name, images in self.members.items()}

    def mean(self) -> Measures:
        """The mean over test sets, each counting the same, as in the tables of the papers; of pairs, over all pairs."""
        if self.protocol.pooled:
            return _means(self.images)
        return _means([ImageResult("", name, row) for name, row in self.groups().items()])

    def intervals(self) -> tuple[dict[str, Intervals], Intervals]:
        """95 % confidence intervals of `groups` and of `mean`: images are drawn with replacement inside each test set.

        Of pairs, whose mean knows no test sets, they are drawn among all images.
        """
        # A set draws by its name: apart from other sets, whose mean would else seem as uncertain as each of them, and
        # alike for every model, so that models may be compared.
        sets = {name: _resample(images, keyed_seed(SEED, "bootstrap", name)) for name, images in self.members.items()}
        if self.protocol.pooled:
            mean = _resample([image for images in self.members.values() for image in images], SEED)
        else:
            columns = {name: [one[name] for one in sets.values() if name in one] for name in METRICS}
            mean = {name: np.mean(column, axis=0) for name, column in columns.items() if column}
        return {name: _intervals(resampled) for name, resampled in sets.items()}, _intervals(mean)


def _columns(images: Sequence[ImageResult]) -> dict[str, tuple[list[float], list[int]]]:
    """Values and weights of every metric over the images that have it."""
    columns = {}
    for name in METRICS:
        if rows := [(image.measures[name], image.weight) for image in images if name in image.measures]:
            values, weights = zip(*rows, strict=True)
            columns[name] = (list(values), list(weights))
    return columns


def _means(images: Sequence[ImageResult]) -> Measures:
    """Mean of every metric; fsum rounds once, so the order does not matter."""
    return {
        name: math.fsum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
        for name, (values, weights) in _columns(images).items()
    }


def _resample(images: Sequence[ImageResult], seed: int) -> dict[str, NDArray[np.float64]]:
    return {name: resampled_means(values, weights, seed=seed) for name, (values, weights) in _columns(images).items()}


def _intervals(resampled: Mapping[str, NDArray[np.float64]]) -> Intervals:
    return {name: interval(means) for name, means in resampled.items()}


def listed(skipped: Mapping[str, int]) -> str:
    """How many samples were left out for which reason; `no samples` where there were none."""
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items())) or "no samples"


def to_csv(results: Results) -> str:
    """One row per image, sorted by test set and key; a measure that an image does not have is left empty."""
    rows = to_rows(results)
    return csv_text(list(rows[0]), rows)


def to_rows(results: Results) -> list[dict[str, str | float | None]]:
    """One row per image with every measure that any image has; None where an image lacks it."""
    known = [name for name in (*COUNTS, *METRICS) if any(name in image.measures for image in results.images)]
    return [
        {"group": image.group, "key": image.key} | {name: image.measures.get(name) for name in known}
        for image in results.images
    ]


def to_markdown(results: Results, model: str) -> str:
    """One row per test set and their mean, the leading measures with their intervals, under the protocol."""
    groups, mean = results.groups(), results.mean()
    group_intervals, mean_intervals = results.intervals()
    lines = [f"# {model}", "", f"{results.counted}; {results.caption}.", ""]
    lines += [f"| test set | images | {' | '.join(map(titled, mean))} |", f"|---|---:|{'---:|' * len(mean)}"]
    last = "**all pairs**" if results.protocol.pooled else "**mean of sets**"
    for name, row in (groups | {last: mean}).items():
        intervals = group_intervals.get(name, mean_intervals)
        cells = [_cell(metric, row, intervals) for metric in mean]
        lines.append(f"| {in_table(name)} | {row.get('images', len(results.images)):.0f} | {' | '.join(cells)} |")
    lines += ["", "In parentheses: 95 % confidence interval of the mean, by drawing images with replacement."]
    for remark in results.remarks:
        lines += ["", remark]
    return "\n".join(lines) + "\n"


def _cell(metric: str, row: Mapping[str, float], intervals: Intervals) -> str:
    if metric not in row:
        return ""
    return f"{row[metric]:.4f}" + (in_parentheses(intervals[metric]) if metric in LEADING else "")


def in_parentheses(interval: tuple[float, float]) -> str:
    """An interval behind its number; nothing where a test set has one image, which says nothing about others."""
    low, high = interval
    return f" ({low:.3f} to {high:.3f})" if low < high else ""


def in_table(name: str) -> str:
    """A name from shards as a cell of a Markdown table."""
    return " ".join(name.split()).replace("|", "\\|")
