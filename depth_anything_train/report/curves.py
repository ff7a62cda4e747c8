"""Loss curves as small inline SVGs, one per named loss with all runs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from depth_anything_train.report.plots import COLORS, STYLE, bare, svg

PREFIX = "train/loss"
BINS = 150  # a curve is at most so many points, whatever the number of steps


@dataclass(frozen=True)
class Curve:
    """One plot: its title, the SVG element, and what it shows in words."""

    title: str
    svg: str
    description: str


def loss_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Curve]:
    """Draw every `train/loss...` that any run logged; rows are those of metrics.jsonl."""
    names = list(dict.fromkeys(key for rows in runs.values() for row in rows for key in row if key.startswith(PREFIX)))
    return [_curve(name, {run: _series(rows, name) for run, rows in runs.items()}) for name in sorted(names)]


def run_color(position: int) -> str:
    """The colour of the run at this position of the mapping."""
    return COLORS[position % len(COLORS)]


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """(N, 2) of step and value; values that are not finite are left out."""
    points = [(row["step"], row[name]) for row in rows if name in row and np.isfinite(row[name])]
    return np.array(points, np.float64).reshape(-1, 2)


def _curve(name: str, series: Mapping[str, NDArray[np.float64]]) -> Curve:
    title = name.removeprefix(PREFIX).strip("/") or "total"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        ends = [_draw(axes, run, points, run_color(i)) for i, (run, points) in enumerate(series.items()) if len(points)]
        axes.set_xlabel("step")
        bare(axes)
        axes.margins(x=0.01)
        if axes.get_ylim()[0] > 0:
            axes.set_ylim(bottom=0)
        return Curve(title, svg(figure, f"loss {title}"), ", ".join(ends))


def _draw(axes: Axes, run: str, points: NDArray[np.float64], color: str) -> str:
    """A line of means over equal spans of steps, a band of their 10th to 90th percentile. Returns it in words."""
    spans = np.array_split(points, min(BINS, len(points)))
    steps = [span[:, 0].mean() for span in spans]
    means = [span[:, 1].mean() for span in spans]
    low, high = np.array([np.percentile(span[:, 1], (10, 90)) for span in spans]).T
    axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(steps, means, color=color, linewidth=1.6)
    return f"{run} from {means[0]:.3g} to {means[-1]:.3g} in {points[-1, 0]:.0f} steps"
