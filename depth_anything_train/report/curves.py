"""Curves of training as small inline SVGs, one a number with all runs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from depth_anything_train.pages.plots import COLORS, STYLE, bare, svg

SECTIONS = {
    "train/loss": "Losses",
    "train/source": "Losses by data set",
    "train": "What the model does",
    "machine": "What the machine does",
}
"""Beginning of a number's name -> the part of the page that shows it; the first that fits."""

WORDS = {"lr": "learning rate", "gb": "GB", "tflops": "TFLOP/s"}

BINS = 150  # a curve is at most so many points, whatever the number of steps


@dataclass(frozen=True)
class Curve:
    """One plot: its part of the page, its title, the SVG element, and what it shows in words."""

    section: str
    title: str
    svg: str
    description: str


def run_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """Draw every number that any run logged; rows are those of metrics.jsonl and machine.jsonl."""
    names = sorted({key for rows in runs.values() for row in rows for key in row if _prefix(key)})
    curves = [_curve(name, {run: _series(rows, name) for run, rows in runs.items()}) for name in names]
    return sorted(curves, key=lambda curve: list(SECTIONS.values()).index(curve.section))  # stable: by name inside


def _prefix(name: str) -> str | None:
    return next((prefix for prefix in SECTIONS if name == prefix or name.startswith(prefix + "/")), None)


def run_color(position: int) -> str:
    """The colour of the run at this position of the mapping."""
    return COLORS[position % len(COLORS)]


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """(N, 2) of step and value; values that are not finite are left out."""
    points = [(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    return np.array(points, np.float64).reshape(-1, 2)


def _curve(name: str, series: Mapping[str, NDArray[np.float64]]) -> Curve:
    prefix = _prefix(name)
    assert prefix is not None
    title = name.removeprefix(prefix).strip("/") or "total"
    if prefix != "train/source":  # whose names are not ours to change
        title = " ".join(WORDS.get(word, word) for word in title.replace("/", " ").replace("_", " ").split())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        ends = [_draw(axes, run, points, run_color(i)) for i, (run, points) in enumerate(series.items()) if len(points)]
        axes.set_xlabel("step")
        bare(axes)
        axes.margins(x=0.01)
        if axes.get_ylim()[0] > 0:
            axes.set_ylim(bottom=0)
        label = f"loss {title}" if prefix.startswith("train/") else title
        return Curve(SECTIONS[prefix], title, svg(figure, label), ", ".join(ends))


def _draw(axes: Axes, run: str, points: NDArray[np.float64], color: str) -> str:
    """A line of means over equal spans of steps, a band of their 10th to 90th percentile. Returns it in words."""
    spans = np.array_split(points, min(BINS, len(points)))
    steps = [span[:, 0].mean() for span in spans]
    means = [span[:, 1].mean() for span in spans]
    low, high = np.array([np.percentile(span[:, 1], (10, 90)) for span in spans]).T
    axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(steps, means, color=color, linewidth=1.6)
    return f"{run} from {means[0]:.3g} to {means[-1]:.3g} in {points[-1, 0]:.0f} steps"
