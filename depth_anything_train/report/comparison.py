"""Models side by side on the same test sets under the same protocol, and what the numbers say in words."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depth_anything_train.files import require_folder
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.functional import HIGHER_IS_BETTER
from depth_anything_train.metrics.protocol import deciding, shown_size
from depth_anything_train.metrics.results import TITLES, read_results
from depth_anything_train.pages.html import spoken
from depth_anything_train.runtime import UserError, differences

SHOWN = ("abs_rel", "delta1")
TEACHER, STUDENT = "teacher", "student"
DIFFERENT_SIZES = "different sizes"
MOST_LISTED = 6  # names of test sets in a sentence


@dataclass(frozen=True)
class Row:
    """One test set, or a mean over several: figures by metric and model."""

    name: str
    images: int
    figures: dict[str, dict[str, float]]
    labelled: bool | None = None
    is_mean: bool = False

    def best(self, metric: str) -> set[str]:
        """The models with the best value; more than one on a tie."""
        values = self.figures[metric]
        target = (max if metric in HIGHER_IS_BETTER else min)(values.values())
        return {name for name, value in values.items() if value == target}


@dataclass(frozen=True)
class Comparison:
    """Evaluations that may stand in one table.

    `models` in the order given, `rows` with labelled test sets first, means last; `baseline` is None where it was not
    among the evaluations. `sizes` are those at which the networks were to see the images; `elsewhere` has the names of
    the data of each model that are not those of the first model.
    """

    models: list[str]
    baseline: str | None
    protocol: DepthProtocol
    rows: list[Row]
    skipped: dict[str, int]
    hashes: dict[str, str]
    sizes: dict[str, Any]
    elsewhere: dict[str, list[str]]

    @property
    def size(self) -> Any:
        """The one at which all models were to see the images, in whose stead a baseline has none."""
        first, *others = [size for model, size in self.sizes.items() if model != self.baseline] or [None]
        return first if all(size == first for size in others) else DIFFERENT_SIZES

    @property
    def groups(self) -> list[str]:
        """Names of the test sets, in the order of the table."""
        return [row.name for row in self.rows if not row.is_mean]

    @property
    def overall(self) -> Row:
        """The mean over all test sets."""
        return self.rows[-1]

    def headline(self) -> list[str]:
        """`teacher AbsRel 0.186 δ1 0.725` for each model, over all test sets."""
        return [
            f"{model} " + " ".join(f"{TITLES[metric]} {self.overall.figures[metric][model]:.3f}" for metric in SHOWN)
            for model in self.models
        ]


def read_evaluations(
    folders: Mapping[str, str], *, baseline: str | None, labelled_groups: Sequence[str] | None = None
) -> Comparison:
    """Read the results of `evaluate` by model name; `labelled_groups` are names or patterns such as `*-day`.

    Raises:
        UserError: one is missing, or protocols, test sets or numbers of images differ, so that no table may hold both,
            or they judge something other than depth.
    """
    results = {
        name: read_results(require_folder(folder, what=f"the evaluation of {name}"), keys={"model": dict})
        for name, folder in folders.items()
    }
    for name, result in results.items():
        groups = result.get("groups")
        if not groups or any(metric not in row for row in groups.values() for metric in SHOWN):
            raise UserError(f"Expected evaluations against depth maps, but {name} has no {' and '.join(SHOWN)}.")
    first_name, first = next(iter(results.items()))
    for name, result in results.items():
        for what, ours, theirs in (
            ("protocol", deciding(result["protocol"]), deciding(first["protocol"])),
            ("numbers of images", _counts(result), _counts(first)),
        ):
            if ours != theirs:
                told = ", ".join(f"{key} {here} and {there}" for key, here, there in differences(ours, theirs))
                raise UserError(
                    f"Expected evaluations that can be compared, but {name} and {first_name} differ in {what}: {told}; "
                    "evaluate both again with the same keys."
                )
    for pattern in labelled_groups or ():
        if not fnmatch.filter(first["groups"], pattern):
            raise UserError(f"labelled_groups names {pattern}, but the test sets are {', '.join(first['groups'])}.")
    return Comparison(
        models=list(results),
        baseline=baseline if baseline in results else None,
        protocol=_protocol(first["protocol"], first_name),
        rows=_rows(results, labelled_groups),
        skipped=first["skipped"],
        hashes={name: result["model"]["hash"] for name, result in results.items()},
        sizes={name: result["model"].get("size") for name, result in results.items()},
        elsewhere={name: other for name, result in results.items() if (other := _other_data(result, first))},
    )


def _protocol(stored: Mapping[str, Any], name: str) -> DepthProtocol:
    try:
        return DepthProtocol(**stored)
    except TypeError:
        keys = ", ".join(stored)
        raise UserError(
            f"Expected the protocol of this version in the results of {name}, but it has {keys}; evaluate again."
        ) from None


def _other_data(result: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Names of the data that hold other samples than those of the first; numbers of images may agree all the same."""
    known = {data["hash"] for data in first["data"].values()}
    return [name for name, data in result["data"].items() if data["hash"] not in known]


def _counts(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: row["images"] for name, row in sorted(result["groups"].items())}


def _rows(results: Mapping[str, Mapping[str, Any]], labelled_groups: Sequence[str] | None) -> list[Row]:
    counts = _counts(next(iter(results.values())))
    rows = []
    for name, images in counts.items():
        figures = {m: {model: result["groups"][name][m] for model, result in results.items()} for m in SHOWN}
        labelled = None if labelled_groups is None else any(fnmatch.fnmatch(name, p) for p in labelled_groups)
        rows.append(Row(name, images, figures, labelled))
    rows.sort(key=lambda row: (not row.labelled, row.name))
    if len(rows) == 1:
        return rows  # it is its own mean
    parts = {label: [row for row in rows if row.labelled is label] for label in (True, False)}
    means = []
    if all(parts.values()):
        means = [_mean("mean of labelled sets", parts[True]), _mean("mean of other sets", parts[False])]
    return [*rows, *means, _mean("mean of all sets", rows)]


def _mean(name: str, rows: Sequence[Row]) -> Row:
    figures = {
        metric: {model: math.fsum(row.figures[metric][model] for row in rows) / len(rows) for model in values}
        for metric, values in rows[0].figures.items()
    }
    return Row(name, sum(row.images for row in rows), figures, is_mean=True)


def verdict(comparison: Comparison) -> list[str]:
    """Who wins where by AbsRel, as sentences; they count losses as plainly as wins, and doubts come first."""
    sentences = [
        f"The {spoken(model)} was judged on other samples of {_listed(names)} than the {spoken(comparison.models[0])}: "
        "evaluate both on the same, because these numbers do not compare."
        for model, names in comparison.elsewhere.items()
    ]
    baseline = comparison.baseline
    if comparison.size == DIFFERENT_SIZES:
        sizes = ((model, size) for model, size in comparison.sizes.items() if model != baseline)
        told = ", ".join(f"the {spoken(model)} at {shown_size(size)}" for model, size in sizes)
        sentences.append(f"The models saw the images at {DIFFERENT_SIZES}: {told}.")
    if baseline:
        for model in comparison.models:
            if model != baseline:
                sentences.append(_duel(comparison, model, baseline))
    if {TEACHER, STUDENT} <= set(comparison.models):
        sentences.append(_duel(comparison, STUDENT, TEACHER))
    return sentences


def _duel(comparison: Comparison, model: str, other: str) -> str:
    sets = [row for row in comparison.rows if not row.is_mean]
    pairs = [(row.name, row.figures["abs_rel"][model], row.figures["abs_rel"][other]) for row in sets]
    losses = [name for name, ours, theirs in pairs if ours > theirs]
    ties = [name for name, ours, theirs in pairs if ours == theirs]
    wins = len(pairs) - len(losses) - len(ties)
    mean = comparison.overall.figures["abs_rel"]
    tail = f"; not on {_listed(losses)}" if losses else ""
    tail += f"; equal on {_listed(ties)}" if ties else ""
    return (
        f"The {spoken(model)} has a lower AbsRel than the {spoken(other)} on {wins} of {len(pairs)} test sets{tail}. "
        f"On average {mean[model]:.3f} against {mean[other]:.3f}, {change(mean[model], mean[other])}."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def change(ours: float, theirs: float) -> str:
    """`12.3 % lower`, `4.0 % higher` or `equal`."""
    if ours == theirs:
        return "equal"
    percent = f"{abs(ours / theirs - 1) * 100:.1f}\u00a0%"  # no line break before the sign
    return f"{percent} {'lower' if ours < theirs else 'higher'}"
