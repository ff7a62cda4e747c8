"""The numbers of a table: by seed, their mean and spread, and what the paper has."""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depth_anything_train.ablate.plan import Column, Plan
from depth_anything_train.ablate.table import Row, Table
from depth_anything_train.metrics.results import read_results
from depth_anything_train.runtime import UserError


@dataclass(frozen=True)
class Figure:
    """One quantity over seeds."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return math.fsum(self.by_seed.values()) / len(self.by_seed)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Line:
    """A row of one metric: ours and the paper's, where they are known.

    Attributes:
        row: what was trained.
        cells: column -> ours.
        mean: mean over the columns that count, by seed; if the paper has numbers, only over the columns with one.
        change: relative change of `mean` from the first row's, by seed: equal seeds share teacher and labels.
        paper: column -> the paper's number.
        paper_mean: the paper's mean over the same columns; over all of the paper's where it has none of them.
        paper_change: relative change of `paper_mean` from the first row's.
    """

    row: Row
    cells: Mapping[str, Figure]
    mean: Figure | None
    change: Figure | None
    paper: Mapping[str, float]
    paper_mean: float | None
    paper_change: float | None


@dataclass(frozen=True)
class Outcome:
    """Everything that the table's files hold; `lines` by metric, those of a metric in the order of the rows."""

    table: Table
    plan: Plan
    seeds: Sequence[int]
    lines: Mapping[str, Sequence[Line]]
    captions: Sequence[str]
    models: Mapping[str, Mapping[int, str]]


def gather(table: Table, plan: Plan, seeds: Sequence[int]) -> Outcome:
    """Read the evaluations that are finished; cells whose evaluation is not stay empty.

    AbsRel is given in both spaces, beside the same numbers of the paper (docs/numbers.md).
    """
    results = {
        (label, seed, name): read_results(job.out, keys={"model": dict, "groups": dict, "mean": dict, "caption": str})
        for (label, seed), jobs in plan.cells.items()
        for name, job in jobs.items()
        if job.finished()
    }
    models: dict[str, dict[int, str]] = {row.label: {} for row in table.rows}
    for (label, seed, _), result in results.items():
        models[label][seed] = result["model"]["hash"]
    metrics = [twin for metric in table.metrics for twin in _both_spaces(metric)]
    lines = {metric: _lines(table, plan, seeds, results, metric) for metric in metrics}
    captions = sorted({result["caption"] for result in results.values()})
    return Outcome(table, plan, seeds, lines, captions, models)


def _both_spaces(metric: str) -> list[str]:
    return [metric, "abs_rel_disparity"] if metric == "abs_rel" else [metric]


def _lines(
    table: Table, plan: Plan, seeds: Sequence[int], results: Mapping[tuple[str, int, str], Any], metric: str
) -> list[Line]:
    lines: list[Line] = []
    for row in table.rows:
        cells: dict[str, Figure] = {}
        for column in plan.columns:
            found = {seed: results.get((row.label, seed, column.name)) for seed in seeds}
            values = {seed: cell(result, column, metric) for seed, result in found.items() if result}
            if values:
                cells[column.name] = Figure(values)
        lines.append(_line(row, plan.columns, cells, metric, lines[0] if lines else None))
    return lines


def _line(row: Row, columns: Sequence[Column], cells: Mapping[str, Figure], metric: str, first: Line | None) -> Line:
    published = row.paper.get("abs_rel" if metric == "abs_rel_disparity" else metric, {})
    counted = [column.name for column in columns if column.in_mean]
    shared = [name for name in counted if name in published]
    mean = _mean(cells, shared or counted)
    numbers = [published[name] for name in shared or published]
    paper_mean = math.fsum(numbers) / len(numbers) if numbers else None
    return Line(
        row,
        cells,
        mean,
        _change(mean, first.mean) if first else None,
        {name: published[name] for name in cells if name in published},
        paper_mean,
        paper_mean / first.paper_mean - 1 if first and first.paper_mean and paper_mean else None,
    )


def cell(result: Mapping[str, Any], column: Column, metric: str) -> float:
    """The mean over the column's test sets, each counting the same.

    Raises:
        UserError: it names sets that were not evaluated.
    """
    if column.sets is None:
        return result["mean"][metric]
    groups = [name for name in result["groups"] if any(fnmatch.fnmatch(name, pattern) for pattern in column.sets)]
    if not groups:
        raise UserError(f"Column {column.name} names {', '.join(column.sets)}, but there are {[*result['groups']]}.")
    return math.fsum(result["groups"][name][metric] for name in groups) / len(groups)


def _mean(cells: Mapping[str, Figure], counted: Sequence[str]) -> Figure | None:
    """By seed, of the seeds that have every column."""
    if not counted or not set(counted) <= cells.keys():
        return None
    seeds = sorted(set.intersection(*(set(cells[name].by_seed) for name in counted)))
    means = {s: math.fsum(cells[name].by_seed[s] for name in counted) / len(counted) for s in seeds}
    return Figure(means) if means else None


def _change(mean: Figure | None, first: Figure | None) -> Figure | None:
    if mean is None or first is None:
        return None
    shared = mean.by_seed.keys() & first.by_seed.keys()
    return Figure({s: mean.by_seed[s] / first.by_seed[s] - 1 for s in sorted(shared)}) if shared else None
