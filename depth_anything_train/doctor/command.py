"""`depth-anything doctor experiment=...`: will this recipe train on these data on this machine? One line a check.

The model, the losses, the optimiser, the loader and the precision are those of `train`. Exit status 1 if a check fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.composition import compose
from depth_anything_train.data.views import UNLABELLED
from depth_anything_train.doctor.environment import check_attention, check_device, check_disk
from depth_anything_train.doctor.labels import check_labels, look, table
from depth_anything_train.doctor.outcome import STYLES, Outcome
from depth_anything_train.doctor.precision import check_precision
from depth_anything_train.doctor.steps import check_overfit, check_speed, learn
from depth_anything_train.files import require_writable, write_json
from depth_anything_train.inference.device import choose_device
from depth_anything_train.models.compilation import compile_parts, compile_problem
from depth_anything_train.overrides import as_override
from depth_anything_train.run_folder import check_folders
from depth_anything_train.runtime import UserError, console
from depth_anything_train.trainer import choose_precision, quiet_lightning


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Run all checks, print a line for each and write them to `out`."""
    out = Path(cfg.out)
    require_writable(out)
    quiet_lightning()
    outcomes, record = list[Outcome](), out / "doctor.json"
    record.unlink(missing_ok=True)
    try:
        for outcome in examine(cfg, out):
            console.print(outcome.line(), style=STYLES[outcome.status], soft_wrap=True)
            outcomes.append(outcome)
    except BaseException as error:  # the record must not look as if all had been checked
        outcomes.append(Outcome("doctor", "failed", f"it stopped: {str(error) or type(error).__name__}"))
        raise
    finally:
        write_json(record, [asdict(outcome) for outcome in outcomes])
    if any(outcome.status == "failed" for outcome in outcomes):
        raise SystemExit(1)


def examine(cfg: DictConfig, out: Path) -> Iterator[Outcome]:
    """All checks, the quick ones first.

    Raises:
        UserError: the recipe or its data cannot be read at all.
    """
    recipe = _recipe(cfg)
    check_folders(recipe)
    device = choose_device(cfg.device)
    yield check_device(device)
    yield check_attention(device)

    data = build(recipe.data)
    yield check_disk(data.sources)
    if with_depth := [source for source in data.sources.values() if "disparity" in source.blank]:
        seen = [one for source in with_depth for one in look(source, cfg.num_samples)]
        _show(table(seen))
        yield check_labels(seen, out / "labels.png")

    small = _recipe(cfg, batch_size=cfg.batch_size)
    pl.seed_everything(recipe.seed, verbose=False)
    model = build(small.model)
    build(small.initialise, model=model)
    task = build(small.task, model=model, optim=build(small.optim), steps=small.steps)
    batch = build(small.data).batch(0)
    if with_depth:
        image = next(iter(batch.values()))["image"]
        yield check_precision(model.to(device), task.to_model(image[:2].to(device)))

    precision = choose_precision(recipe.precision, device.type)
    if recipe.compile:
        compile_parts(task)
    try:
        learning = learn(task, batch, device=device, precision=precision, **cfg.overfit)
    except RuntimeError as error:
        if not (problem := compile_problem(error)):
            raise
        yield Outcome("compile", "failed", problem)
        return
    yield check_overfit(learning)
    try:
        yield check_speed(data, sum(small.data.batch.values()), learning, sum(recipe.data.batch.values()), cfg.seconds)
    except UserError as error:  # of one sample among all, which nothing has met before
        yield Outcome("loader", "failed", str(error))


def _recipe(cfg: DictConfig, batch_size: int | None = None) -> DictConfig:
    """The config of `train`; with `batch_size` so many images of each kind, and rates that do not warm up."""
    given: dict[str, Any] = {"experiment": cfg.experiment, "out": cfg.out}
    given |= {key: OmegaConf.to_container(cfg[key]) for key in ("labelled", "unlabelled") if cfg[key]}
    overrides = [*(as_override(key, value) for key, value in given.items()), *cfg.overrides]
    recipe = compose("train", overrides)
    if batch_size is None:
        return recipe
    small = {f"data.batch.{name}": min(batch_size, count) for name, count in recipe.data.batch.items()}
    if recipe.data.get("cutmix") is not None:  # which mixes pairs
        pairs = f"data.batch.{UNLABELLED}"
        small[pairs] = max(small[pairs] // 2 * 2, 2)
    small["steps"] = max(recipe.steps, cfg.overfit.steps + 1)  # schedules end with the recipe
    if "warmup_steps" in recipe.optim:
        small["optim.warmup_steps"] = 0
    return compose("train", [*overrides, *(as_override(key, value) for key, value in small.items())])


def _show(rows: list[dict[str, Any]]) -> None:
    shown = Table("source", "unit", "samples", "valid", "disparity, 2nd to 98th percentile", show_edge=False)
    for row in rows:
        spread = f"{row['low']:.4g} to {row['high']:.4g}"
        shown.add_row(row["source"], row["unit"], str(row["samples"]), f"{row['valid']:.1%}", spread)
    console.print(shown)
