"""The table as files: Markdown for the reader, CSV and JSON for machines, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depth_anything_train.ablate.outcome import Figure, Line, Outcome
from depth_anything_train.ablate.picture import draw
from depth_anything_train.files import write_bytes, write_json
from depth_anything_train.metrics.results import titled
from depth_anything_train.runtime import provenance


def write(outcome: Outcome, folder: Path) -> Path:
    """Write NAME.md, NAME.csv, NAME.png and, last, NAME.json; returns the Markdown file."""
    path = folder / f"{outcome.table.name}.md"
    write_bytes(path, to_markdown(outcome).encode())
    write_bytes(path.with_suffix(".csv"), to_csv(outcome).encode())
    write_bytes(path.with_suffix(".png"), draw(outcome))
    write_json(path.with_suffix(".json"), to_json(outcome))
    return path


# -- Markdown. ---------------------------------------------------------------------------------------------------------


def to_markdown(outcome: Outcome) -> str:
    """One table a metric, the paper's row below each of ours, and what to know beside them."""
    seeds = ", ".join(map(str, outcome.seeds))
    spread = "; mean ± standard deviation over seeds" if len(outcome.seeds) > 1 else ""
    lines = [f"# {outcome.table.title}", "", f"Seeds {seeds}{spread}."]
    lines += [f"{caption[0].upper()}{caption[1:]}." for caption in outcome.captions]
    for metric, rows in outcome.lines.items():
        lines += ["", f"## {titled(metric)}", "", *_table(outcome, rows)]
    return "\n".join([*lines, *_notes(outcome)]) + "\n"


def _table(outcome: Outcome, rows: Sequence[Line]) -> list[str]:
    columns = outcome.plan.columns
    titles = [column.title + ("\\*" if column.doubt else "") for column in columns]
    lines = [f"| | {' | '.join(titles)} | mean | change |", f"|---|{'---:|' * (len(columns) + 2)}"]
    for line in rows:
        ours = [_shown(line.cells.get(column.name)) for column in columns]
        change = _percent(line.change.mean, line.change.spread) if line.change else ""
        lines.append(_joined(line.row.label, [*ours, _shown(line.mean), change]))
        if line.paper_mean is not None:
            paper = [_number(line.paper.get(column.name)) for column in columns]
            lines.append(_joined("*paper*", [*paper, _number(line.paper_mean), _percent(line.paper_change)]))
    return lines


def _joined(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(share: float | None, spread: float | None = None) -> str:
    if share is None:
        return ""
    return f"{100 * share:+.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}") + " %"


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.mean:.3f}" + ("" if figure.spread is None else f" ± {figure.spread:.3f}")


def _notes(outcome: Outcome) -> list[str]:
    columns = outcome.plan.columns
    left_out = [column.title for column in columns if not column.in_mean]
    notes = ["Change: of the mean, against the first row, seed by seed."]
    if left_out:
        notes.append(f"The mean leaves out {', '.join(left_out)}.")
    if any(line.paper for lines in outcome.lines.values() for line in lines):
        notes += outcome.table.notes
    else:
        notes.append("The paper's test sets are others, so that only changes compare.")
    if outcome.plan.without:
        notes.append(f"Trained without {', '.join(outcome.plan.without)}, which the paper's rows have.")
    notes += [f"\\* {column.title}: {column.doubt}." for column in columns if column.doubt]
    notes += [f"{label}: not trained here, {reason}." for label, reason in outcome.plan.reasons.items()]
    return ["", *(f"- {note}" for note in notes)]


# -- For machines. -----------------------------------------------------------------------------------------------------


def to_csv(outcome: Outcome) -> str:
    """One line for each number: ours by seed, and the paper's with an empty seed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "metric", "column", "seed", "value"])
    for metric, lines in outcome.lines.items():
        for line in lines:
            figures = {**line.cells, "mean": line.mean, "change": line.change}
            for column, figure in figures.items():
                for seed, value in (figure.by_seed if figure else {}).items():
                    writer.writerow([line.row.label, metric, column, seed, value])
            paper = {**line.paper, "mean": line.paper_mean, "change": line.paper_change}
            for column, number in paper.items():
                if number is not None:
                    writer.writerow([line.row.label, metric, f"paper {column}", "", number])
    return file.getvalue()


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, with where it comes from."""
    return {
        "schema": 1,
        "table": outcome.table.name,
        "title": outcome.table.title,
        "seeds": list(outcome.seeds),
        "captions": list(outcome.captions),
        "columns": {
            column.name: {"title": column.title, "in_mean": column.in_mean, "doubt": column.doubt}
            for column in outcome.plan.columns
        },
        "rows": [_row(outcome, position) for position in range(len(outcome.table.rows))],
        "without": list(outcome.plan.without),
        "notes": list(outcome.table.notes),
        "provenance": provenance(),
    }


def _row(outcome: Outcome, position: int) -> dict[str, Any]:
    row = outcome.table.rows[position]
    metrics = {}
    for metric, lines in outcome.lines.items():
        line = lines[position]
        metrics[metric] = {
            "columns": {name: _figure(figure) for name, figure in line.cells.items()},
            "mean": _figure(line.mean),
            "change": _figure(line.change),
            "paper": {"columns": dict(line.paper), "mean": line.paper_mean, "change": line.paper_change},
        }
    return {
        "label": row.label,
        "experiment": row.experiment,
        "ablation": row.ablation,
        "reason": outcome.plan.reasons.get(row.label),
        "models": {str(seed): hash_ for seed, hash_ in outcome.models[row.label].items()},
        "metrics": metrics,
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    by_seed = {str(seed): value for seed, value in figure.by_seed.items()}
    return {"mean": figure.mean, "spread": figure.spread, "seeds": by_seed}
