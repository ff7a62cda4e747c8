"""Which jobs a table needs at a scale, and which of them fill its cells."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from depth_anything_train.ablate.jobs import Folder, Job, content_of, jobs_among, path_of, short_hash
from depth_anything_train.ablate.table import Row, Table
from depth_anything_train.composition import choices_in, compose, config_folder, plain
from depth_anything_train.overrides import as_override
from depth_anything_train.run_folder import run_key
from depth_anything_train.runtime import UserError

LABELLED, UNLABELLED, TESTS = "labelled", "unlabelled", "tests"


@dataclass(frozen=True)
class Column:
    """Test sets whose mean is a cell.

    Attributes:
        name, title: short, and for the reader.
        keys: keys of `evaluate` and their values, the protocol among them.
        sets: names or patterns of test sets; None means all that are evaluated.
        in_mean: whether the mean of a row counts it.
        doubt: why the paper's number may not be comparable.
    """

    name: str
    title: str
    keys: Mapping[str, Any]
    sets: Sequence[str] | None = None
    in_mean: bool = True
    doubt: str | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of a table, each after those it needs.

    Attributes:
        columns: the table's columns, in order.
        jobs: by name.
        cells: (label of the row, seed) -> name of the column -> the evaluation that has its number.
        reasons: label of a row that is not trained -> why.
        without: names of the sets that the other rows lack.
        folders: of the sets that jobs read, by their names.
    """

    columns: list[Column]
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: dict[tuple[str, int], dict[str, Job]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    folders: dict[str, str] = field(default_factory=dict)


def make_plan(table: Table, cfg: DictConfig) -> Plan:
    """Work out what the table needs; writes nothing.

    Args:
        table: a table of the papers, as `read_table` returns it.
        cfg: as `configs/ablate/ablate.yaml`, resolved.

    Raises:
        UserError: a set that a row needs was not named, or two rows are the same at this scale.
    """
    return _Planner(table, cfg).plan_all()


class _Planner:
    def __init__(self, table: Table, cfg: DictConfig) -> None:
        self.table, self.cfg, self.out = table, cfg, Path(cfg.out)
        self.given = {
            LABELLED: _folders(cfg.labelled, LABELLED),
            UNLABELLED: _folders(cfg.unlabelled, UNLABELLED),
            TESTS: _folders(cfg.benchmarks, "benchmarks"),
        }
        self.keys = {command: _overrides(cfg[command], command) for command in ("train", "label", "evaluate")}
        self._check_without()
        self.plan = Plan(self._columns(), without=tuple(cfg.without))
        self._check_keys()
        self.drawn = {kind: self._prepare(kind, keys) for kind, keys in cfg.scale.prepare.items()}

    def plan_all(self) -> Plan:
        for seed in self.cfg.seeds:
            runs: dict[str, str] = {}
            for row in self.table.rows:
                if reason := row.reason or self._lacks(row):
                    self.plan.reasons[row.label] = reason
                    continue
                run = self._row(row, seed)
                if run.name in runs:
                    raise UserError(
                        f"table={self.table.name} cannot be made at this scale: the rows {runs[run.name]!r} and "
                        f"{row.label!r} are the same training here; use scale=paper, or leave out fewer sets."
                    )
                runs[run.name] = row.label
                self.plan.cells[row.label, seed] = {
                    column.name: self._evaluate(run, column) for column in self.plan.columns
                }
        return self.plan

    def _check_without(self) -> None:
        rows = [*self.table.labelled, *(name for row in self.table.rows for name in (*row.labelled, *row.unlabelled))]
        of_other_tables = choices_in(config_folder("prepare") / "dataset")
        if unknown := sorted(set(self.cfg.without) - {*rows, *of_other_tables}):
            known = ", ".join(dict.fromkeys(rows))
            raise UserError(f"Expected sets of table={self.table.name} in without, {known}, but got {unknown[0]}.")

    def _check_keys(self) -> None:
        """Compose what comes after the first trainings now: a mistake in it must not be met behind them."""
        column = self.plan.columns[0]
        judged = [as_override(key, value) for key, value in {"model": "m", "data": {"a": "b"}, **column.keys}.items()]
        compose("label", ["teacher=t", "shards=s", "out=o", *self.keys["label"]])
        compose("evaluate", [*judged, "out=o", *self.keys["evaluate"]])

    # -- Data: what the scale draws stands for every set; otherwise the user names the folder of each. -----------------

    def _columns(self) -> list[Column]:
        known = {name: Column(name, **keys) for name, keys in plain(self.cfg.scale.columns).items()}
        if TESTS in self.cfg.scale.prepare:
            return list(known.values())
        if unknown := self.given[TESTS].keys() - known.keys():
            raise UserError(f"Expected benchmarks among {', '.join(known)}, but got {', '.join(sorted(unknown))}.")
        if not self.given[TESTS]:
            raise UserError("Expected test sets to evaluate on: add benchmarks={kitti: FOLDER, ...}.")
        return [column for name, column in known.items() if name in self.given[TESTS]]

    def _prepare(self, kind: str, keys: DictConfig) -> Job:
        overrides = _overrides(keys, "prepare")
        return self._add(Job("prepare", overrides, self.out / "shards" / f"{kind}-{short_hash(overrides)}"))

    def _sets(self, kind: str, names: Sequence[str]) -> list[Folder]:
        if kind in self.drawn:
            return [self.drawn[kind]]
        at_hand = [name for name in names if name not in self.cfg.without]
        if missing := [name for name in at_hand if name not in self.given[kind]]:
            raise UserError(
                f"table={self.table.name} needs the {kind} sets {', '.join(missing)}: add {kind}={{{missing[0]}: "
                f"FOLDER, ...}}, or without=[{','.join(missing)}] to do without them."
            )
        self.plan.folders.update({name: self.given[kind][name] for name in at_hand})
        return [self.given[kind][name] for name in at_hand]

    def _lacks(self, row: Row) -> str | None:
        """The sets without which nothing is left to train on."""
        for kind, names in ((LABELLED, row.labelled), (UNLABELLED, row.unlabelled)):
            reads = kind in self._config(row.experiment, row.ablation).data.sources
            if reads and kind not in self.drawn and set(names) <= set(self.cfg.without):
                return f"without {', '.join(names)}"
        return None

    # -- Jobs. ---------------------------------------------------------------------------------------------------------

    def _row(self, row: Row, seed: int) -> Job:
        assert row.experiment is not None
        labels: list[Folder] = []
        if UNLABELLED in self._config(row.experiment, row.ablation).data.sources:
            teacher = self._train(self.table.teacher, None, seed, self._sets(LABELLED, self.table.labelled), [])
            labels = [self._label(teacher, images) for images in self._sets(UNLABELLED, row.unlabelled)]
        labelled = []
        if LABELLED in self._config(row.experiment, row.ablation).data.sources:
            labelled = self._sets(LABELLED, row.labelled)
        return self._train(row.experiment, row.ablation, seed, labelled, labels)

    def _train(
        self, experiment: str | None, ablation: str | None, seed: int, labelled: list[Folder], labels: list[Folder]
    ) -> Job:
        base = self._config(experiment, ablation)
        folders = {LABELLED: labelled, UNLABELLED: labels}
        config = copy.deepcopy(base)
        config.seed = seed
        config.labelled, config.unlabelled = (list(map(content_of, each)) for each in folders.values())
        overrides = [
            *self._choices(experiment, ablation),
            as_override("seed", seed),
            *(as_override(kind, [path_of(folder) for folder in each]) for kind, each in folders.items() if each),
        ]
        out = self.out / "runs" / f"{base.name}-seed{seed}-{run_key(config)[:8]}"
        return self._add(Job("train", tuple(overrides), out, jobs_among([*labelled, *labels])))

    def _label(self, teacher: Job, images: Folder) -> Job:
        key = short_hash(teacher.name, content_of(images), self.keys["label"])
        overrides = (
            as_override("teacher", str(teacher.out)),
            as_override("shards", path_of(images)),
            *self.keys["label"],
        )
        out = self.out / "labels" / f"{teacher.out.name}-{key}"
        return self._add(Job("label", overrides, out, (teacher, *jobs_among([images]))))

    def _evaluate(self, run: Job, column: Column) -> Job:
        data: Folder = self.drawn.get(TESTS) or self.given[TESTS][column.name]
        named = path_of(data) if isinstance(data, Job) else {column.name: data}
        self.plan.folders.update({} if isinstance(named, str) else named)
        keys = {"model": str(run.out), "data": named, **column.keys}
        overrides = (*(as_override(key, value) for key, value in keys.items()), *self.keys["evaluate"])
        key = short_hash(run.name, content_of(data), column.keys, self.keys["evaluate"])
        out = self.out / "evaluations" / f"{run.out.name}-{key}"
        return self._add(Job("evaluate", overrides, out, (run, *jobs_among([data]))))

    def _add(self, job: Job) -> Job:
        return self.plan.jobs.setdefault(job.name, job)

    # -- Training configs. ---------------------------------------------------------------------------------------------

    def _choices(self, experiment: str | None, ablation: str | None) -> list[str]:
        stand_ins = self.cfg.scale.stand_ins
        if stand_ins and experiment not in stand_ins:
            raise UserError(
                f"table={self.table.name} needs {experiment}, for which this scale has none; use scale=paper."
            )
        chosen = stand_ins[experiment] if stand_ins else experiment
        name = f"{chosen}-{ablation}" if ablation else chosen
        changed = [as_override("ablation", ablation)] if ablation else []
        return [as_override("experiment", chosen), *changed, as_override("name", name), *self.keys["train"]]

    def _config(self, experiment: str | None, ablation: str | None) -> DictConfig:
        return _training(tuple(self._choices(experiment, ablation)))


@functools.cache
def _training(choices: tuple[str, ...]) -> DictConfig:
    """The config of a training, not to be changed: composing takes a moment, and rows ask for the same ones."""
    return compose("train", [*choices, "out=run"])


def _overrides(given: Any, key: str) -> tuple[str, ...]:
    keys = plain(given) or {}
    if not isinstance(keys, dict):
        raise UserError(f"Expected {key}={{KEY: VALUE, ...}}, but got {key}={given}.")
    return tuple(as_override(str(name), value) for name, value in keys.items())


def _folders(given: Any, key: str) -> dict[str, str]:
    folders = plain(given) or {}
    if not isinstance(folders, dict) or not all(isinstance(folder, str) for folder in folders.values()):
        raise UserError(f"Expected {key}={{NAME: FOLDER, ...}}, but got {key}={given}.")
    return folders
