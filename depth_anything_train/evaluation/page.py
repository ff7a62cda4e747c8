"""The page of an evaluation: of each test set the errors in order, and its best, median and worst image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.test_sets import Records
from depth_anything_train.evaluation.examples import ERROR_COLORMAP, WORST_ERROR, example_row, placement
from depth_anything_train.evaluation.judges import Judge, PairSample
from depth_anything_train.evaluation.suite import Suite
from depth_anything_train.evaluation.table import Entry, body, head
from depth_anything_train.inference.prediction import Prediction, Predictor
from depth_anything_train.metrics.functional import HIGHER_IS_BETTER
from depth_anything_train.metrics.pairs import PairProtocol
from depth_anything_train.metrics.results import LEADING, TITLES, ImageResult, Results, in_parentheses
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.pages.html import document, gradient, picture_row, table
from depth_anything_train.pages.pictures import Picture, PictureRow, encode
from depth_anything_train.pages.plots import line

RIGHT, WRONG = (16, 185, 129), (220, 38, 38)


def result_page(
    results: Results, name: str, model: Predictor, data: Mapping[str, Records], judge: Judge, size: int | None
) -> str:
    """The page of one model under one protocol; three images a test set are predicted again.

    Args:
        results: results of the evaluation.
        name: name of the model.
        model: as the protocol looks through it.
        data: records by the names in the results' origins.
        judge: reads the samples.
        size: shorter side for the network; its own choice when None.
    """
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{results.counted}; {escape(results.caption)}.</p>',
        _summary(results),
        f'<p class="soft">In parentheses: 95 % confidence interval. {_legend(results.protocol)}</p>',
        *(f"<p><b>{escape(remark)}</b></p>" for remark in results.remarks),
    ]
    metric = "accuracy" if isinstance(results.protocol, PairProtocol) else "abs_rel"
    for group, images in results.members.items():
        ranked = sorted(
            images, key=lambda image: (image.measures[metric], image.key), reverse=metric in HIGHER_IS_BETTER
        )
        parts += [f"<h2>{escape(group)}</h2>", _plot(ranked, metric, group)]
        for rank, result in _picks(ranked).items():
            sample = _read(result, data, judge)
            row = _row(sample, name, model, results.protocol, size)
            said = f"{TITLES[metric]} {result.measures[metric]:.3f}"
            parts += [f"<h3>{rank}: {escape(result.key)}, {said}</h3>", picture_row(row)]
    return document(f"{name}: evaluation", "\n".join(parts))


def suite_page(suite: Suite, entries: Sequence[Entry], pages: Sequence[str]) -> str:
    """The table of a suite, what is known about its columns, and the way to the pages of the evaluations."""
    doubts = [one for one in suite.benchmarks.values() if one.irreproducible]
    parts = [
        f"<h1>{escape(suite.title)}</h1>",
        f'<p class="soft">The numbers of the paper are from <a href="{escape(suite.url)}">{escape(suite.url)}</a>.</p>',
        table(["", *head(suite)], body(suite, entries)),
        *(f'<p class="soft">{escape(note)}</p>' for note in suite.notes),
    ]
    if doubts:
        listed = "".join(f"<li><b>{escape(d.title)}</b>: {escape(d.irreproducible or '')}</li>" for d in doubts)
        parts.append(f'<p class="soft">* Known not to be reproducible from public material:</p><ul>{listed}</ul>')
    links = "".join(f'<li><a href="{escape(page)}">{escape(page.rpartition("/")[0])}</a></li>' for page in pages)
    parts.append(f"<h2>Images</h2><ul>{links}</ul>" if links else "")
    return document(suite.title, "\n".join(parts))


def _summary(results: Results) -> str:
    groups, mean = results.groups(), results.mean()
    intervals, mean_intervals = results.intervals()
    shown = [metric for metric in LEADING if metric in mean]
    last = "all pairs" if results.protocol.pooled else "mean of sets"
    rows = []
    for name, row in (groups | {last: mean}).items():
        cells = []
        for metric in shown:
            cells.append(f"{row[metric]:.3f}{in_parentheses(intervals.get(name, mean_intervals)[metric])}")
        rows.append([name, f"{row.get('images', len(results.images)):.0f}", *cells])
    return table(["test set", "images", *(TITLES[metric] for metric in shown)], rows if len(groups) > 1 else rows[:1])


def _legend(protocol: Any) -> str:
    if isinstance(protocol, PairProtocol):
        return "Circle: what people said is nearer; cross: farther. Green pairs are right, red ones wrong."
    return (
        f"Disparity: far {gradient('Spectral_r')} near, {placement(protocol)}. "
        f"Relative depth error: 0 {gradient(ERROR_COLORMAP)} {WORST_ERROR:.0%} and more. Grey: no label, or not judged."
    )


def _plot(ranked: Sequence[ImageResult], metric: str, group: str) -> str:
    if len(ranked) < 2:
        return ""
    values = [image.measures[metric] for image in ranked]
    label = f"{TITLES[metric]} of the images of {escape(group)}, from the best to the worst"
    svg = line(np.linspace(0, 100, len(values)).tolist(), values, label, unit="images, best to worst (%)")
    return f'<div class="curves"><figure><figcaption><b>{TITLES[metric]}</b></figcaption>{svg}</figure></div>'


def _picks(ranked: Sequence[ImageResult]) -> dict[str, ImageResult]:
    """Best, median and worst; fewer where there are fewer images."""
    positions = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    picks: dict[str, ImageResult] = {}
    for rank, position in positions.items():
        if position not in [positions[other] for other in picks]:
            picks[rank] = ranked[position]
    return picks


def _read(result: ImageResult, data: Mapping[str, Records], judge: Judge) -> Any:
    assert result.origin is not None
    name, index = result.origin
    return judge.read(data[name][index], result.group, None)


def _row(sample: Any, name: str, model: Predictor, protocol: Any, size: int | None) -> PictureRow:
    if isinstance(sample, PairSample):
        return _pair_row(sample, model, size)
    return example_row(sample, {name: model}, protocol, size=size)


def _pair_row(sample: PairSample, model: Predictor, size: int | None) -> PictureRow:
    prediction = Prediction(model.forward([sample.image], size, [sample.focal_px])[0], model.kind)
    disparity = prediction.resized(*sample.image.shape[:2]).disparity
    pictures = [
        Picture(title, "", f"{title} of {sample.key} with its pairs", encode(_draw(pixels, sample, disparity)))
        for title, pixels in (("image", sample.image), ("prediction", colorize(disparity)))
    ]
    return PictureRow(sample.group, sample.key, pictures)


def _draw(pixels: NDArray[np.uint8], sample: PairSample, disparity: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Every pair as a line from a circle (nearer) to a cross (farther), as large as the picture allows."""
    drawn = pixels.copy()
    radius = max(max(drawn.shape[:2]) // 50, 2)
    thick = max(radius // 3, 1)
    for pair in sample.pairs:
        near, far = (tuple(pair[role]) for role in ("nearer", "farther"))
        color = RIGHT if disparity[near] > disparity[far] else WRONG
        cv2.line(drawn, near[::-1], far[::-1], color, thick)
        cv2.circle(drawn, near[::-1], radius, color, thick + 1)
        cv2.drawMarker(drawn, far[::-1], color, cv2.MARKER_TILTED_CROSS, 2 * radius, thick + 1)
    return drawn
