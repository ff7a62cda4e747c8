"""What a table of the papers asks for: a training and published numbers for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.metrics.results import TITLES
from depth_anything_train.runtime import UserError

PUBLISHED = ("abs_rel", "delta1")
"""Metrics that the papers' tables hold."""


@dataclass(frozen=True)
class Row:
    """A training and what the paper says of it.

    Attributes:
        label: what the table calls it.
        experiment: the `experiment=` of `train`; None if this project cannot train the row.
        ablation: the `ablation=` of `train`, a change to the experiment; None if there is none.
        labelled: names of the labelled sets.
        unlabelled: names of the sets of unlabelled images.
        paper: metric -> benchmark -> published number.
        reason: why this project cannot train the row.
    """

    label: str
    experiment: str | None
    ablation: str | None
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    paper: Mapping[str, Mapping[str, float]]
    reason: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the papers; `teacher` is the experiment that labels the unlabelled images of its rows."""

    name: str
    title: str
    teacher: str | None
    labelled: tuple[str, ...]
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def read_table(name: str, node: DictConfig) -> Table:
    """Read `configs/ablate/table/NAME.yaml`; a row inherits from the table what it does not state.

    Raises:
        UserError: a row has no label, neither experiment nor reason, or another number of values than benchmarks.
    """
    content: Any = OmegaConf.to_container(node, resolve=True)
    common = {"labelled": content.get("labelled") or [], "unlabelled": content.get("unlabelled") or []}
    rows = tuple(_read_row(name, {**common, **row}, content.get("benchmarks") or []) for row in content["rows"])
    if len({row.label for row in rows}) < len(rows):
        raise UserError(f"Expected rows of different labels in table {name}, but two have the same.")
    return Table(
        name,
        content["title"],
        content.get("teacher"),
        tuple(common["labelled"]),
        rows,
        tuple(metric for metric in PUBLISHED if any(metric in row.paper for row in rows)) or PUBLISHED[:1],
        tuple(content.get("notes") or ()),
    )


def _read_row(table: str, content: Mapping[str, Any], benchmarks: Sequence[str]) -> Row:
    label = content.get("label")
    if not label or not content.get("experiment") and not content.get("reason"):
        raise UserError(f"Expected label and experiment in every row of table {table}, but one is {dict(content)}.")
    paper = {}
    for metric in PUBLISHED:
        if metric in content:
            if len(content[metric]) != len(benchmarks):
                raise UserError(
                    f"Expected {len(benchmarks)} values of {TITLES[metric]} for {label} in table {table}, one for each "
                    f"of {', '.join(benchmarks)}, but got {len(content[metric])}."
                )
            paper[metric] = dict(zip(benchmarks, content[metric], strict=True))
    return Row(
        label=str(label),
        experiment=content.get("experiment"),
        ablation=content.get("ablation"),
        labelled=tuple(content["labelled"]),
        unlabelled=tuple(content["unlabelled"]),
        paper=paper,
        reason=content.get("reason"),
    )
