"""A table at a glance: a dot for each seed, a bar at their mean, and the paper's numbers beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from depth_anything_train.ablate.outcome import Line, Outcome
from depth_anything_train.metrics.functional import HIGHER_IS_BETTER
from depth_anything_train.metrics.results import TITLES
from depth_anything_train.pages.plots import COLORS, INK, STYLE, bare

PAPER, OURS = COLORS[0], COLORS[1]


def draw(outcome: Outcome) -> bytes:
    """The mean of each row by the table's first metric as a PNG, ours to the left and the paper's to the right."""
    metric, lines = next(iter(outcome.lines.items()))
    labels = [line.row.label for line in lines]
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(7.2, 0.9 + 0.36 * len(lines)), layout="constrained", dpi=160)
        left, right = canvas.subplots(1, 2, sharey=True)
        arrow = "higher is better" if metric in HIGHER_IS_BETTER else "lower is better"
        _ours(left, lines)
        _paper(right, lines)
        for axes, title in ((left, "here"), (right, "paper")):
            axes.set_title(f"{title}: mean {TITLES[metric]}, {arrow}", loc="left", color=INK, fontsize=9)
            bare(axes)
            axes.grid(axis="y", visible=False)
            axes.margins(x=0.12)
            axes.locator_params(axis="x", nbins=4)
        left.set_yticks(range(len(labels)), labels)
        left.set_ylim(len(labels) - 0.5, -0.5)
        file = io.BytesIO()
        canvas.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _ours(axes: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        if line.mean is not None:
            values = list(line.mean.by_seed.values())
            axes.plot(values, [place] * len(values), "o", color=OURS, alpha=0.45, markersize=5, markeredgewidth=0)
            axes.plot([line.mean.mean] * 2, [place - 0.28, place + 0.28], color=OURS, linewidth=2.2)
            axes.annotate(
                f"{line.mean.mean:.3f}", (line.mean.mean, place - 0.3), ha="center", va="bottom", color=INK, fontsize=8
            )


def _paper(axes: Axes, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        if line.paper_mean is not None:
            axes.plot([line.paper_mean] * 2, [place - 0.28, place + 0.28], color=PAPER, linewidth=2.2)
            axes.annotate(
                f"{line.paper_mean:.3f}",
                (line.paper_mean, place - 0.3),
                ha="center",
                va="bottom",
                color=INK,
                fontsize=8,
            )
