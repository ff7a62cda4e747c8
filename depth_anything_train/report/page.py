"""The page itself: one HTML file with everything inline, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from depth_anything_train.evaluation.examples import ERROR_COLORMAP, WORST_ERROR, placement
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.results import titled
from depth_anything_train.ops.sampling import evenly
from depth_anything_train.pages.html import card, cell, document, gradient, image, picture_row, spoken
from depth_anything_train.pages.pictures import PictureRow
from depth_anything_train.report.comparison import SHOWN, STUDENT, TEACHER, Comparison, Row
from depth_anything_train.report.curves import Curve, run_color

TEASER = 5  # columns at the top of the page


@dataclass(frozen=True)
class Page:
    """What the page shows; an empty part is left out. `protocol` is that of the comparison and the examples."""

    title: str
    stages: list[dict[str, Any]]
    runs: list[str]
    curves: list[Curve]
    protocol: DepthProtocol
    comparison: Comparison | None
    verdict: list[str]
    examples: list[PictureRow]
    pseudo_labels: list[PictureRow]
    models: dict[str, str]
    provenance: dict[str, Any]


def render(page: Page) -> str:
    """The HTML of the page; equal content gives equal bytes."""
    body = "\n".join(
        part
        for part in (
            _head(page),
            _results(page.comparison) if page.comparison else "",
            _examples(page.examples, page.protocol) if page.examples else "",
            _pseudo_labels(page.pseudo_labels) if page.pseudo_labels else "",
            _curves(page.curves, page.runs) if page.curves else "",
            _stages(page.stages) if page.stages else "",
            _origin(page),
        )
        if part
    )
    return document(page.title, body)


# -- Head: the result in one look. -------------------------------------------------------------------------------------


def _head(page: Page) -> str:
    parts = [f"<h1>{escape(page.title)}</h1>"]
    if page.verdict:
        parts.append(f'<ul class="verdict">{"".join(f"<li>{escape(sentence)}</li>" for sentence in page.verdict)}</ul>')
    if page.comparison:
        parts.append(f'<div class="cards">{"".join(_cards(page.comparison))}</div>')
    if page.examples and len(page.examples[0].pictures) > 2:
        parts.append(_teaser(page.examples, page.models))
    return "\n".join(parts)


def _cards(comparison: Comparison) -> Iterator[str]:
    figures = comparison.overall.figures
    for model in comparison.models:
        against = ""
        if comparison.baseline and model != comparison.baseline:
            ratio = figures["abs_rel"][model] / figures["abs_rel"][comparison.baseline]
            against = f" · {ratio:.2f} × the {spoken(comparison.baseline)}'s error"
        note = f"δ1 {figures['delta1'][model]:.3f}{against}"
        yield card(spoken(model), f"{figures['abs_rel'][model]:.3f}", "AbsRel", note)


def _teaser(examples: Sequence[PictureRow], models: Iterable[str]) -> str:
    """Some images at even distances, each above the last model's prediction."""
    last = list(models)[-1]
    columns = []
    for row in (examples[index] for index in evenly(len(examples), TEASER)):
        pictures = {picture.title: picture for picture in row.pictures}
        columns.append(f"<div>{image(pictures['image'])}{image(pictures[last])}</div>")
    return (
        f'<div class="teaser">{"".join(columns)}</div>\n'
        f'<p class="soft">Images of the test sets and their disparity, as predicted by {escape(spoken(last))}.</p>'
    )


# -- The table. --------------------------------------------------------------------------------------------------------


def _results(comparison: Comparison) -> str:
    shows_labelled = any(row.labelled is not None for row in comparison.rows)
    top, second = _table_head(comparison, shows_labelled)
    body = "\n".join(_table_row(row, comparison, shows_labelled) for row in comparison.rows)
    skipped = ", ".join(f"{count} × {reason}" for reason, count in sorted(comparison.skipped.items())) or "none"
    describe = comparison.protocol.describe(comparison.size)
    return (
        "<h2>Results</h2>\n"
        '<p class="soft">AbsRel: mean relative error of depth, lower is better. δ1: share of pixels within a factor of '
        "1.25, higher is better. The best of each row is marked. Means count every test set the same.</p>\n"
        '<div class="scroll"><table>\n'
        f"<thead><tr>{top}</tr><tr>{second}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n"
        f'<p class="soft note">{escape(describe[0].upper() + describe[1:])}. Images skipped: {escape(skipped)}.</p>'
    )


def _against(comparison: Comparison) -> list[tuple[str, str]]:
    """Pairs (model, other) whose AbsRel the table divides."""
    baseline = comparison.baseline
    pairs = [(model, baseline) for model in comparison.models if baseline and model != baseline]
    return pairs + ([(STUDENT, TEACHER)] if {STUDENT, TEACHER} <= set(comparison.models) else [])


def _table_head(comparison: Comparison, shows_labelled: bool) -> tuple[str, str]:
    models, pairs = comparison.models, _against(comparison)
    top = '<th rowspan="2" scope="col">test set</th>'
    top += '<th rowspan="2" scope="col">labels in training</th>' if shows_labelled else ""
    top += '<th rowspan="2" scope="col">images</th>'
    second = ""
    for metric in SHOWN:
        top += f'<th class="edge" colspan="{len(models)}" scope="colgroup">{titled(metric)}</th>'
        second += "".join(cell("th", spoken(m), edge=i == 0) for i, m in enumerate(models))
    if pairs:
        top += f'<th class="edge" colspan="{len(pairs)}" scope="colgroup">AbsRel ratio ↓</th>'
        second += "".join(cell("th", f"{spoken(a)} / {spoken(b)}", edge=i == 0) for i, (a, b) in enumerate(pairs))
    return top, second


def _table_row(row: Row, comparison: Comparison, shows_labelled: bool) -> str:
    cells = f'<th scope="row">{escape(row.name)}</th>'
    if shows_labelled:
        tag = {True: '<span class="tag yes">yes</span>', False: '<span class="tag">no</span>', None: ""}[row.labelled]
        cells += f"<td>{tag}</td>"
    cells += f"<td>{row.images}</td>"
    for metric in SHOWN:
        best = row.best(metric)
        for position, model in enumerate(comparison.models):
            cells += cell("td", f"{row.figures[metric][model]:.4f}", edge=position == 0, best=model in best)
    for position, (model, other) in enumerate(_against(comparison)):
        ratio = row.figures["abs_rel"][model] / row.figures["abs_rel"][other]
        cells += cell("td", f"{ratio:.3f}", edge=position == 0)
    mean = ' class="mean"' if row.is_mean else ""
    return f"<tr{mean}>{cells}</tr>"


# -- Pictures and curves. ----------------------------------------------------------------------------------------------


def _examples(rows: Sequence[PictureRow], protocol: DepthProtocol) -> str:
    parts = [
        "<h2>Predictions</h2>",
        f'<p class="soft">Disparity: far {gradient("Spectral_r")} near, {placement(protocol)}. '
        f"Relative depth error: 0 {gradient(ERROR_COLORMAP)} {WORST_ERROR:.0%} and more. "
        "Grey: no label, or not judged. The images were taken at even distances from each test set, not chosen by "
        "result.</p>",
    ]
    for group in dict.fromkeys(row.group for row in rows):
        parts.append(f"<h3>{escape(group)}</h3>")
        parts += [picture_row(row) for row in rows if row.group == group]
    return "\n".join(parts)


def _pseudo_labels(rows: Sequence[PictureRow]) -> str:
    pairs = "\n".join(picture_row(row) for row in rows)
    return (
        "<h2>Pseudo labels</h2>\n"
        '<p class="soft">What the teacher told the student about images without labels: far '
        f'{gradient("Spectral_r")} near.</p>\n<div class="pairs">\n{pairs}\n</div>'
    )


def _curves(curves: Sequence[Curve], runs: Sequence[str]) -> str:
    legend = "".join(
        f'<span class="key" style="background: {run_color(position)}"></span>{escape(spoken(run))}'
        for position, run in enumerate(runs)
    )
    parts = [
        f'<h2>Training</h2>\n<p class="soft">{legend} &emsp; Line: mean of neighbouring steps; band: their 10th to '
        "90th percentile.</p>"
    ]
    for section, members in groupby(curves, key=lambda curve: curve.section):
        figures = "\n".join(
            f"<figure><figcaption><b>{escape(spoken(curve.title))}</b></figcaption>{curve.svg}"
            f"<figcaption>{escape(curve.description)}</figcaption></figure>"
            for curve in members
        )
        parts.append(f'<h3>{section}</h3>\n<div class="curves">\n{figures}\n</div>')
    return "\n".join(parts)


# -- Where it comes from. ----------------------------------------------------------------------------------------------


def _stages(stages: Sequence[dict[str, Any]]) -> str:
    parts = ["<h2>What ran</h2>", '<p class="soft">The command of every step, to run it again.</p>']
    for stage in stages:
        seconds = f"{stage['seconds']:.0f} s" if stage.get("seconds") is not None else ""
        name = escape(str(stage.get("name", "")))
        parts.append(f'<p class="stage">{name}<span>{seconds}</span></p><pre>{escape(stage["command"])}</pre>')
    total = sum(stage.get("seconds") or 0 for stage in stages)
    if total:
        parts.append(f'<p class="stage">together<span>{total:.0f} s</span></p>')
    return "\n".join(parts)


def _origin(page: Page) -> str:
    entries = {f"weights of {spoken(name)}": f"{digest[:16]}" for name, digest in page.models.items()}
    entries |= {key: str(value) for key, value in page.provenance.items() if key != "versions"}
    entries |= page.provenance.get("versions", {})
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items())
    return f"<h2>Provenance</h2>\n<dl>{listed}</dl>"
