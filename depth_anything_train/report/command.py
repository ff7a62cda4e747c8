"""`depth-anything report`: what ran, curves, tables and pictures on one page that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.command import command
from depth_anything_train.evaluation.loop import check_kind
from depth_anything_train.files import read_json, require_folder, write_bytes
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.report.comparison import Comparison, read_evaluations, verdict
from depth_anything_train.report.curves import run_curves
from depth_anything_train.report.page import Page, render
from depth_anything_train.report.pictures import example_rows, pseudo_label_rows
from depth_anything_train.run_folder import MACHINE_METRICS, METRICS, read_metrics
from depth_anything_train.runtime import UserError, console, provenance


@command("report")
def main(cfg: DictConfig) -> None:
    """Gather what the keys name, write the page to `cfg.out` and say where it is."""
    options: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    page = gather(options)
    out = Path(cfg.out)
    write_bytes(out, render(page).encode())
    figures = " | ".join(page.comparison.headline()) if page.comparison else ""
    console.print(f"{figures}{': ' if figures else ''}{out}", soft_wrap=True)


def gather(options: dict[str, Any]) -> Page:
    """Read everything that the page shows; the keys are those of `configs/report/report.yaml`.

    Raises:
        UserError: a named folder is missing or unfinished, evaluations cannot be compared, or nothing was named.
    """
    for key in ("runs", "evaluations", "models"):
        if not isinstance(options[key] or {}, dict):
            raise UserError(f'Expected {key}="{{NAME: FOLDER, ...}}", but got {key}={options[key]}; give each a name.')
    runs = {name: _read_run(folder) for name, folder in (options["runs"] or {}).items()}
    comparison = _read_comparison(options)
    models = {name: DepthAnything.from_pretrained(folder) for name, folder in (options["models"] or {}).items()}
    protocol = _protocol(comparison, models)
    page = Page(
        title=options["title"],
        stages=_read_stages(options["stages"]),
        runs=list(runs),
        curves=run_curves(runs),
        protocol=protocol,
        comparison=comparison,
        verdict=[*(verdict(comparison) if comparison else []), *([options["note"]] if options["note"] else [])],
        examples=_read_examples(options, models, protocol, comparison),
        pseudo_labels=pseudo_label_rows(options["labels"], options["label_examples"]) if options["labels"] else [],
        models={name: model.hash for name, model in models.items()},
        provenance=provenance(),
    )
    if not (page.stages or page.curves or page.comparison or page.examples or page.pseudo_labels):
        raise UserError("Expected something to report, but got nothing: add evaluations=, runs=, examples= or labels=.")
    return page


def _read_run(folder: str) -> list[dict[str, Any]]:
    rows = read_metrics(require_folder(folder, what="a run") / METRICS)
    if not rows:
        raise UserError(f"Expected {METRICS} in the run folder {folder}, but there is none or it is empty.")
    return rows + read_metrics(Path(folder) / MACHINE_METRICS)


def _read_comparison(options: dict[str, Any]) -> Comparison | None:
    if not options["evaluations"]:
        return None
    return read_evaluations(
        options["evaluations"], baseline=options["baseline"], labelled_groups=options["labelled_groups"]
    )


def _protocol(comparison: Comparison | None, models: dict[str, DepthAnything]) -> DepthProtocol:
    """That of the evaluations, else one that aligns; metric models alone are taken at their word.

    Raises:
        UserError: the evaluations judge metres, which a model does not predict.
    """
    if comparison:
        for name, model in models.items():
            check_kind(model, comparison.protocol, align_metric=True, name=name)
        return comparison.protocol
    metric = bool(models) and all(model.kind == "metric" for model in models.values())
    return DepthProtocol(name="metric", alignment="none") if metric else DepthProtocol()


def _read_examples(
    options: dict[str, Any], models: dict[str, DepthAnything], protocol: DepthProtocol, comparison: Comparison | None
) -> list[Any]:
    if not options["examples"]:
        return []
    order = comparison.groups if comparison else []
    return example_rows(
        options["examples"], models, protocol, split_by=options["split_by"], per_group=options["per_group"], order=order
    )


def _read_stages(stages: Any) -> list[dict[str, Any]]:
    if isinstance(stages, str):
        folder = require_folder(stages, what="the stages of a pipeline")
        stages = [read_json(mark) for mark in sorted(folder.glob("*.json"))]
    listed = stages or []
    if not isinstance(listed, list) or not all(isinstance(stage, dict) and "command" in stage for stage in listed):
        raise UserError("Expected stages as a list of {name, command, seconds}, or the folder of a pipeline's stages.")
    return listed
