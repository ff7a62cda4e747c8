"""A table of a paper: its benchmarks, the published numbers, and which data are on disk or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.building import build
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.metrics.results import METRICS
from depth_anything_train.runtime import UserError, require_choice

Space = Literal["depth", "disparity"]
SPACES: tuple[Space, ...] = ("depth", "disparity")


@dataclass(frozen=True)
class Benchmark:
    """A column of the table; `irreproducible` says why its numbers cannot be had from public material, if so."""

    name: str
    title: str
    protocol: EvaluationProtocol
    irreproducible: str | None

    def how_to_get(self, folder: str) -> str:
        """The command that writes its shards, and where the raw data is."""
        return f"depth-anything prepare {self.protocol.prepare} out={folder}   (raw data: {self.protocol.url})"


@dataclass(frozen=True)
class Cell:
    """A number of a benchmark: a metric, of one test set where `group` names it, else of the mean."""

    metric: str
    group: str | None

    @classmethod
    def parse(cls, text: str) -> Cell:
        """`abs_rel`, or `accuracy@indoor`."""
        metric, _, group = text.partition("@")
        return cls(metric, group or None)

    def key(self, space: Space) -> str | None:
        """Name of the metric in that space; None where it is not measured there."""
        name = self.metric if space == "depth" else f"{self.metric}_disparity"
        return name if name in METRICS else None


@dataclass(frozen=True)
class PaperRow:
    """What a paper prints for one model: numbers in the order of the suite's cells, by benchmark."""

    name: str
    title: str
    encoder: str | None
    values: dict[str, list[float | None]]


@dataclass(frozen=True)
class Suite:
    """A table of a paper."""

    title: str
    url: str
    notes: list[str]
    spaces: tuple[Space, ...]
    cells: list[Cell]
    benchmarks: dict[str, Benchmark]
    rows: dict[str, PaperRow]

    @property
    def family(self) -> str:
        """The one family of all its benchmarks."""
        return next(iter(self.benchmarks.values())).protocol.family

    def row_for(self, encoder: str | None, against: str | None) -> PaperRow | None:
        """The row of the paper to compare a model with: the one named, or the one of its encoder; None if none is.

        Raises:
            UserError: the paper has no row of that name.
        """
        if against is None:
            return next((row for row in self.rows.values() if encoder is not None and row.encoder == encoder), None)
        require_choice("against", against, self.rows)
        return self.rows[against]


def read_suite(cfg: DictConfig) -> Suite:
    """Build and check the config of a suite.

    Raises:
        UserError: benchmarks of two families, an unknown metric, or a row whose numbers do not fit the cells.
    """
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    cells = [Cell.parse(text) for text in content["cells"]]
    benchmarks = {
        name: Benchmark(name, one.get("title", name), build(cfg.benchmarks[name].protocol), one.get("irreproducible"))
        for name, one in content["benchmarks"].items()
    }
    if len(families := {one.protocol.family for one in benchmarks.values()}) != 1:
        raise UserError(f"Numbers of two families never stand in one table, but this suite has {sorted(families)}.")
    if unknown := [cell.metric for cell in cells if cell.metric not in METRICS]:
        raise UserError(f"Expected cells out of {', '.join(METRICS)}, but got {', '.join(unknown)}.")
    rows = {
        name: PaperRow(name, row["title"], row.get("encoder"), _values(name, row["values"], benchmarks, len(cells)))
        for name, row in content["rows"].items()
    }
    spaces = tuple(space for space in SPACES if space in content["spaces"])
    return Suite(content["title"], content["url"], content["notes"], spaces, cells, benchmarks, rows)


def _values(
    row: str, values: Mapping[str, Sequence[float | None]], benchmarks: Mapping[str, Benchmark], cells: int
) -> dict[str, list[float | None]]:
    for name, numbers in values.items():
        if name not in benchmarks or len(numbers) != cells:
            raise UserError(
                f"Expected {cells} numbers for each of {', '.join(benchmarks)} in the row {row}, but it has "
                f"{len(numbers)} for {name}."
            )
    return {name: list(numbers) for name, numbers in values.items()}


def find_data(suite: Suite, data: Any, root: str | None) -> dict[str, str]:
    """Shard folders of those benchmarks that are on disk, by name: from `data`, else from `root`.

    Raises:
        UserError: `data` is no mapping or names what is no benchmark, a folder that it names is missing, or nothing is
            there at all.
    """
    given = data or {}
    if not isinstance(given, dict) or not (given or root):
        raise UserError(
            f'Expected data="{{NAME: DIR, ...}}" with names out of {", ".join(suite.benchmarks)}, or root=DIR that '
            f"holds folders of these names, but got data={data}."
        )
    if unknown := set(given) - set(suite.benchmarks):
        names = ", ".join(suite.benchmarks)
        raise UserError(f"The suite has the benchmarks {names}, but data names {', '.join(sorted(unknown))}.")
    found = {}
    for name in suite.benchmarks:
        inside = Path(root).expanduser() / name if root else None
        if name in given:
            found[name] = str(given[name])
        elif inside and inside.is_dir():
            found[name] = str(inside)
    if not found:
        raise UserError(f"Nothing of the suite is in {root}. {missing_text(suite, found, root)}")
    return found


def missing_text(suite: Suite, found: Mapping[str, str], root: str | None) -> str:
    """How to get each missing benchmark; empty if none is missing."""
    missing = [one for name, one in suite.benchmarks.items() if name not in found]
    lines = [f"  {one.how_to_get(str(Path(root or 'shards') / one.name))}" for one in missing]
    return "\n".join(["Not on disk, left out; each is made by", *lines]) if missing else ""
