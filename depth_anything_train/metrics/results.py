"""Results of a model on test sets: means that do not depend on the order, and their tables."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from depth_anything_train.metrics.functional import HIGHER_IS_BETTER, RATIO_METRICS, UNIT_METRICS
from depth_anything_train.metrics.protocol import Protocol

METRICS = ("abs_rel", "abs_rel_disparity", *[name for name in RATIO_METRICS if name != "abs_rel"], *UNIT_METRICS)
TITLES = {
    "abs_rel": "AbsRel",
    "abs_rel_disparity": "AbsRel (disparity)",
    "delta1": "δ1",
    "delta2": "δ2",
    "delta3": "δ3",
    "rmse_log": "RMSE log",
    "silog": "SILog",
    "log10": "log10",
    "rmse": "RMSE (m)",
    "sq_rel": "SqRel (m)",
}


@dataclass(frozen=True)
class ImageResult:
    """What `evaluate_image` said about one image."""

    group: str
    key: str
    measures: dict[str, float]


@dataclass
class Results:
    """Results of a model under one protocol; all means are the same numbers in whatever order the images came."""

    protocol: Protocol
    images: list[ImageResult] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def groups(self) -> dict[str, dict[str, float]]:
        """Per test set, by name: the mean over its images of every measure, and `images`, how many there are."""
        members: dict[str, list[dict[str, float]]] = {}
        for result in self.images:
            members.setdefault(result.group, []).append(result.measures)
        return {name: {"images": len(rows)} | _means(rows) for name, rows in sorted(members.items())}

    def mean(self) -> dict[str, float]:
        """The mean over test sets, each counting the same, as in the tables of the papers."""
        return _means(list(self.groups().values()))


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over the rows that have it; fsum rounds once, so the order does not matter."""
    columns = {name: [row[name] for row in rows if name in row] for name in METRICS}
    return {name: math.fsum(values) / len(values) for name, values in columns.items() if values}


def to_csv(results: Results) -> str:
    """One row per image, sorted by test set and key; a measure that an image does not have is left empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, ["group", "key", "pixels", *METRICS], lineterminator="\n")
    writer.writeheader()
    for result in results.images:
        writer.writerow({"group": result.group, "key": result.key, **result.measures})
    return table.getvalue()


def to_markdown(results: Results, model: str) -> str:
    """One row per test set and their mean, under the protocol that made them."""
    groups, mean = results.groups(), results.mean()
    arrows = [f"{TITLES[name]} {'↑' if name in HIGHER_IS_BETTER else '↓'}" for name in mean]
    lines = [f"# {model}", "", f"{len(results.images)} images; {results.protocol.describe()}.", ""]
    lines += [f"| test set | images | {' | '.join(arrows)} |", f"|---|---:|{'---:|' * len(mean)}"]
    for name, row in (groups | {"**mean of sets**": mean}).items():
        cells = [f"{row[metric]:.4f}" if metric in row else "" for metric in mean]
        lines.append(f"| {name} | {row.get('images', len(results.images)):.0f} | {' | '.join(cells)} |")
    if results.skipped:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(results.skipped.items()))
        lines += ["", f"Skipped: {reasons}."]
    return "\n".join(lines) + "\n"
