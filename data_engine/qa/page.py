"""The page of `verify page=`: counts of a whole folder, and numbers and pictures of labels drawn from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np

from data_engine.qa.facts import LabelFacts
from data_engine.qa.findings import Findings
from data_engine.qa.gather import EXAMPLES, Summary, draw, examine, image_shard, open_folder, summarise
from depth_anything_train.data.folders import find_shards, read_info
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import IMAGES, SEGMENTED, BadSample
from depth_anything_train.files import write_bytes
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.pages.html import card, document, gradient, picture_row, table
from depth_anything_train.pages.pictures import Picture, PictureRow, encode, shrink
from depth_anything_train.pages.plots import histogram, line
from depth_anything_train.runtime import UserError, keyed_seed

MEANING = {
    "invalid": "share of pixels without a value",
    "flat": "the range is small beside the nearest disparity; 1 is constant",
    "spikes": "share of the whole range that the outermost percent of the pixels needs",
    "ramp": "share of the variance that a tilted plane explains",
}
SHOWN_PROBLEMS = 20
CURVE_POINTS = 150


def write_page(
    shards: str,
    out: Path,
    *,
    findings: Findings,
    num_shards: int,
    num_labels: int,
    num_samples: int,
    seed: int,
    workers: int | None = None,
) -> None:
    """Gather and write the page of a folder of labels.

    Args:
        shards: folder of labelled or pseudo-label shards.
        out: the HTML file.
        findings: what `verify` found, for the page to repeat.
        num_shards, num_labels: how many labels are drawn, from how many shards, for histograms and suspicions.
        num_samples: how many of them are shown without a reason.
        seed: seed of the draw.
        workers: processes; None is one a core, 0 works in this process.

    Raises:
        UserError: the folder holds no depth.
    """
    require_depth(shards)
    try:
        folder = open_folder(shards)[0]
        summary = summarise(folder, findings)
    except UserError as error:  # a shard or a manifest that is damaged: the page says so, and draws nothing
        title = f"Labels of {Path(shards).name}"
        nothing = f"<p>Nothing is drawn, because the folder cannot be opened: {escape(str(error))}</p>"
        write_bytes(
            out,
            document(
                title, f"<h1>{escape(title)}</h1>\n{_wrong(findings) if findings.num_wrong else ''}\n{nothing}"
            ).encode(),
        )
        return
    drawn = examine(shards, draw(folder, num_shards, num_labels, seed), workers)
    title = f"Labels of {folder.info.get('source', Path(shards).name)}"
    write_bytes(out, render(title, shards, summary, drawn, findings, num_samples, seed).encode())


def require_depth(shards: str | AnyPath) -> None:
    """Make sure that a folder holds what the page shows.

    Raises:
        UserError: it holds no labels of depth.
    """
    folder, _, _ = find_shards(shards)
    if without := {IMAGES: "images", SEGMENTED: "classes"}.get(read_info(folder)["kind"]):
        raise UserError(f"Expected labels of depth in {folder} for page=, but it holds {without} only; use sheet=.")


def render(
    title: str,
    shards: str,
    summary: Summary,
    drawn: Sequence[LabelFacts],
    findings: Findings,
    num_samples: int,
    seed: int,
) -> str:
    """The HTML of the page."""
    parts = [f"<h1>{escape(title)}</h1>", _cards(summary, findings.num_wrong)]
    if findings.num_wrong:
        parts.append(_wrong(findings))
    if rows := list(_reasons(summary)):
        head = ["reason", "where from", "samples", "share"]
        parts += ["<h2>By reason</h2>", table(head, rows)]
    if drawn:
        parts += [_numbers(summary, drawn), *_suspicious(shards, summary, drawn)]
        some = np.random.default_rng(keyed_seed(seed, "shown")).permutation(len(drawn))[:num_samples]
        parts += [
            "<h2>At random</h2>",
            _legend(),
            _pairs(shards, ((drawn[k].shard, drawn[k].number, "") for k in some)),
        ]
    return document(title, "\n".join(part for part in parts if part))


def _cards(summary: Summary, problems: int) -> str:
    dropped, flagged = summary.dropped.total(), sum(reason.count for reason in summary.flags.values())
    each = summary.stored / max(summary.count, 1)
    cards = [
        card("samples", f"{summary.count:,}", note=f"{problems} problems found" if problems else "no problem found"),
        card("dropped", f"{dropped:,}", note=f"{dropped / max(summary.count, 1):.2%} of the samples"),
        card("flags", f"{flagged:,}", note="by label; kept, and can be skipped"),
        card("on disk", *_bytes(summary.stored), note=f"{' '.join(_bytes(each))} a sample"),
    ]
    if summary.rate is not None:
        cards.append(card("throughput", f"{summary.rate:,.3g}", "/s", "samples, by the times of the manifests"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _bytes(size: float) -> tuple[str, str]:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.3g}", unit


def _reasons(summary: Summary) -> Iterator[list[str]]:
    groups = (
        ("dropped: has no label", summary.dropped),
        ("wrong, by verify", {name: reason.count for name, reason in summary.bad.items()}),
        ("suspected, by verify", {name: reason.count for name, reason in summary.suspected.items()}),
        ("flagged, by label", {name: reason.count for name, reason in summary.flags.items()}),
        ("noted, by prepare", summary.notes),
    )
    for origin, counts in groups:
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            yield [
                name,
                origin,
                f"{count:,}",
                "" if counts is summary.notes else f"{count / max(summary.count, 1):.3%}",
            ]


# -- Numbers. ----------------------------------------------------------------------------------------------------------


def _numbers(summary: Summary, drawn: Sequence[LabelFacts]) -> str:
    plots = [
        ("extent of disparity", "2nd to 98th percentile of each label", [one.extent for one in drawn], True),
        ("middle of disparity", "median of each label", [one.middle for one in drawn], True),
        ("valid share", "pixels with a value", [one.valid_share for one in drawn], False),
        ("bytes", "kB of each label in the shard", [one.stored / 1000 for one in drawn], False),
        ("image size", "shorter side, pixels", [one.side for one in drawn], False),
        ("image aspect", "width / height", [one.aspect for one in drawn], False),
    ]
    figures = [_figure(name, histogram(values, name, unit=unit, log=log)) for name, unit, values, log in plots]
    if summary.rate is not None:
        figures.append(_figure("throughput", _finished(summary.finished)))
    return (
        f'<h2>In numbers</h2>\n<p class="soft">Of {len(drawn):,} labels drawn from {summary.count:,} samples; '
        f'upwards: labels.</p>\n<div class="curves">\n{"".join(figures)}\n</div>'
    )


def _figure(name: str, svg: str) -> str:
    return f"<figure><figcaption><b>{escape(name)}</b></figcaption>{svg}</figure>"


def _finished(finished: Sequence[tuple[float, int]]) -> str:
    """Samples done over time, at most `CURVE_POINTS` of them."""
    hours = (np.array([time for time, _ in finished]) - finished[0][0]) / 3600
    done = np.cumsum([count for _, count in finished])
    points = np.unique(np.linspace(0, len(finished) - 1, CURVE_POINTS).round().astype(int))
    return line(hours[points].tolist(), done[points].tolist(), "samples done over time", unit="hours; upwards: samples")


# -- Pictures. ---------------------------------------------------------------------------------------------------------


def _suspicious(shards: str, summary: Summary, drawn: Sequence[LabelFacts]) -> Iterator[str]:
    yield f'<h2>Most suspicious</h2>\n<p class="soft">The worst of the {len(drawn):,} drawn labels by four scores from '
    yield f"0 to 1, then samples for each reason that is on record. {_gradient_words()}</p>"
    for name, meaning in MEANING.items():
        worst = sorted((one for one in drawn if one.scores.get(name, 0) > 0), key=lambda one: -one.scores[name])
        if worst:
            yield f'<h3>{name} <span class="soft">{escape(meaning)}</span></h3>'
            yield _pairs(shards, ((one.shard, one.number, f"{one.scores[name]:.3f}") for one in worst[:EXAMPLES]))
    known = (("flagged", summary.flags), ("wrong", summary.bad), ("suspected", summary.suspected))
    for origin, reasons in known:
        for name, reason in sorted(reasons.items()):
            yield f'<h3>{origin}: {escape(name)} <span class="soft">{reason.count:,} in all</span></h3>'
            yield _pairs(shards, ((shard, number, "") for shard, number in reason.samples))


def _wrong(findings: Findings) -> str:
    listed = "".join(f"<li>{escape(problem)}</li>" for problem in findings.wrong[:SHOWN_PROBLEMS])
    left = findings.num_wrong - SHOWN_PROBLEMS
    more = f"<li>and {left} more</li>" if left > 0 else ""
    return f'<h2>Wrong</h2>\n<ul class="verdict">{listed}{more}</ul>'


def _legend() -> str:
    return f'<p class="soft">{_gradient_words()}</p>'


def _gradient_words() -> str:
    return f"Disparity: far {gradient('Spectral_r')} near; grey: no value."


def _pairs(shards: str, samples: Iterable[tuple[int, int, str]]) -> str:
    rows = []
    for shard, number, note in samples:
        with suppress(BadSample):
            rows.append(picture_row(_pair(shards, shard, number, note)))
    return f'<div class="pairs">\n{chr(10).join(rows)}\n</div>'


def _pair(shards: str, shard: int, number: int, note: str) -> PictureRow:
    """Image and label side by side; an image that cannot be read is left out."""
    labels, images = open_folder(shards)[0], image_shard(shards, shard)
    record = labels.shard(shard).read(number)
    disparity, valid = decode_label(*record.label(), record.meta)
    pictures = []
    with suppress(BadSample):
        if images is not None:
            image = decode_image(images.read(number).image)
            pictures.append(Picture("image", labels.shards[shard].name, f"Image {record.key}", encode(image)))
    coloured = encode(colorize(*shrink(disparity, valid)))
    pictures.append(Picture(note or "label", record.key, f"Label of {record.key} {note}".rstrip(), coloured))
    return PictureRow("", record.key, pictures)
