"""Small plots for pages: real text, equal numbers give equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#c2410c", "#1d4ed8", "#047857", "#7c3aed")
INK, GRID = "#57534e", "#e7e5e4"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: small, sharp, and readable by machines
    "svg.hashsalt": "report",  # equal curves, equal bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def bare(axes: Axes) -> None:
    """Leave only what is read: the lower axis and faint lines across."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def histogram(values: Sequence[float], label: str, *, unit: str, log: bool = False, bins: int = 40) -> str:
    """Counts of values as an SVG element; `log` gives bins of equal ratios, for values above 0 of many magnitudes."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite) & (finite > 0 if log else True)]
    low, high = (finite.min(), finite.max()) if finite.size else (1.0, 2.0)
    if low == high:
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(np.histogram(finite, edges)[0], edges, fill=True, color=COLORS[1])
        axes.set_xscale("log" if log else "linear")
        axes.set_xlabel(unit)
        bare(axes)
        return svg(figure, label)


def line(x: Sequence[float], y: Sequence[float], label: str, *, unit: str) -> str:
    """A line from 0 on as an SVG element."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(x, y, color=COLORS[1], linewidth=1.6)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(unit)
        bare(axes)
        return svg(figure, label)


def svg(figure: Figure, label: str) -> str:
    """The figure as an element for an HTML page: no prolog, no metadata, no namespaces, ids of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    for side in ("width", "height"):  # the page decides; viewBox keeps the aspect
        text = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' id="(figure|patch|axes|matplotlib|text|xtick|ytick|line2d|FillBetween\w*)_\w+"', "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
