"""A suite's numbers beside the paper's: one entry a cell for machines, one table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from depth_anything_train.evaluation.suite import Benchmark, Cell, PaperRow, Space, Suite
from depth_anything_train.files import csv_text
from depth_anything_train.metrics.results import titled


@dataclass(frozen=True)
class Entry:
    """One cell of the table: what the paper prints, what a model of ours got, and how far they are apart.

    `ours`, its 95 % interval `low` to `high` and `difference` (ours - paper) are None where the benchmark is not on
    disk, `paper` where the paper has no such model or number.
    """

    model: str
    benchmark: str
    group: str | None
    metric: str
    space: Space
    paper_row: str | None
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    difference: float | None
    images: int | None
    protocol_hash: str | None
    irreproducible: str | None


def compare(suite: Suite, model: str, row: PaperRow | None, results: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """Every cell of a suite for one model, from the contents of its results.json by benchmark."""
    return [
        _entry(model, benchmark, cell, space, suite.cells.index(cell), row, results.get(benchmark.name))
        for space in suite.spaces
        for benchmark in suite.benchmarks.values()
        for cell in suite.cells
        if cell.key(space)
    ]


def _entry(
    model: str,
    benchmark: Benchmark,
    cell: Cell,
    space: Space,
    position: int,
    row: PaperRow | None,
    result: Mapping[str, Any] | None,
) -> Entry:
    paper = row.values[benchmark.name][position] if row and benchmark.name in row.values else None
    ours, low, high = _ours(cell, cell.key(space) or "", result)
    return Entry(
        model=model,
        benchmark=benchmark.name,
        group=cell.group,
        metric=cell.metric,
        space=space,
        paper_row=row.name if row else None,
        paper=paper,
        ours=ours,
        low=low,
        high=high,
        difference=None if paper is None or ours is None else ours - paper,
        images=result["images"] if result else None,
        protocol_hash=result["protocol_hash"] if result else None,
        irreproducible=benchmark.irreproducible,
    )


def _ours(
    cell: Cell, key: str, result: Mapping[str, Any] | None
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Our number with its interval."""
    if result is None:
        return None, None, None
    means = result["mean"] if cell.group is None else result["groups"].get(cell.group, {})
    if key not in means:
        return None, None, None
    intervals = result["intervals"]
    low, high = (intervals["mean"] if cell.group is None else intervals["groups"][cell.group])[key]
    return means[key], low, high


def to_csv(entries: Sequence[Entry]) -> str:
    """One line an entry."""
    return csv_text([field.name for field in fields(Entry)], map(asdict, entries))


def head(suite: Suite) -> list[str]:
    """Titles of the columns behind the first."""
    return [
        f"{one.title}{'*' if one.irreproducible else ''} {_title(cell)}"
        for one in suite.benchmarks.values()
        for cell in suite.cells
    ]


def body(suite: Suite, entries: Sequence[Entry]) -> list[list[str]]:
    """Rows of texts: the paper's, then of each model and space its numbers and their difference to the paper's row."""
    rows = [[f"paper: {row.title}", *_paper(suite, row)] for row in suite.rows.values()]
    for model, space in dict.fromkeys((entry.model, entry.space) for entry in entries):
        mine = {(e.benchmark, e.metric, e.group): e for e in entries if (e.model, e.space) == (model, space)}
        cells = [mine.get((name, c.metric, c.group)) for name in suite.benchmarks for c in suite.cells]
        where = f" (in {space})" if len(suite.spaces) > 1 else ""
        rows.append([f"{model}{where}", *("" if e is None else _number(e.metric, e.ours) for e in cells)])
        if against := next((e.paper_row for e in cells if e and e.paper_row), None):
            texts = ("" if e is None else _number(e.metric, e.difference, signed=True) for e in cells)
            rows.append([f"difference to {suite.rows[against].title}", *texts])
    return rows


def to_markdown(suite: Suite, entries: Sequence[Entry], captions: Mapping[str, str], missing: str) -> str:
    """The table, what is known about its columns, the protocols that made it, and what is missing."""
    titles = head(suite)
    lines = [f"# {suite.title}", "", f"Paper: {suite.url}", "", f"| | {' | '.join(titles)} |"]
    lines += [f"|---|{'---:|' * len(titles)}", *(f"| {' | '.join(row)} |" for row in body(suite, entries)), ""]
    lines += [f"{note}\n" for note in suite.notes]
    doubts = [one for one in suite.benchmarks.values() if one.irreproducible]
    if doubts:
        lines += ["\\* Known not to be reproducible from public material:", ""]
        lines += [f"- {one.title}: {one.irreproducible}" for one in doubts] + [""]
    lines += ["Ours:", "", *(f"- {name}: {caption}" for name, caption in captions.items()), ""]
    return "\n".join([*lines, missing, ""]) if missing else "\n".join(lines)


def _paper(suite: Suite, row: PaperRow) -> list[str]:
    return [
        _number(cell.metric, row.values[name][position] if name in row.values else None)
        for name in suite.benchmarks
        for position, cell in enumerate(suite.cells)
    ]


def _title(cell: Cell) -> str:
    return titled(cell.metric, cell.group.replace("_", " ") if cell.group else None)


def _number(metric: str, value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    digits = 1 if metric == "accuracy" else 3
    return f"{value:{'+' if signed else ''}.{digits}f}"
