"""`depth-anything ablate table=...`: the trainings behind a table of the papers, run or resumed, and then the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from depth_anything_train.ablate.local import Local
from depth_anything_train.ablate.outcome import gather
from depth_anything_train.ablate.plan import Plan, make_plan
from depth_anything_train.ablate.table import read_table
from depth_anything_train.ablate.write import write
from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.files import require_writable
from depth_anything_train.runtime import UserError, console


@command("ablate")
def main(cfg: DictConfig) -> None:
    """Run the table's jobs that are not finished and write the table from those that are."""
    OmegaConf.resolve(cfg)
    hydra = HydraConfig.get()
    ablate(cfg, name=hydra.runtime.choices["table"], typed=list(hydra.overrides.task))


def ablate(cfg: DictConfig, *, name: str, typed: Sequence[str] = ()) -> Path | None:
    """Run a table's jobs and write its files; returns the Markdown file, None if jobs are still in a queue.

    Args:
        cfg: as `configs/ablate/ablate.yaml`, resolved.
        name: name of the table, as in the names of its files.
        typed: the keys of the command, for a launcher that does not wait: its last job is the command itself.

    Raises:
        UserError: the table cannot be made at this scale, a set is missing, or a job failed.
        SystemExit: with `RUN_AGAIN` if a job was asked to stop and saved its state; the same call continues.
    """
    if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds):
        raise UserError(f"Expected one seed or several different ones, but got seeds={list(cfg.seeds)}.")
    table, out = read_table(name, cfg.table), Path(cfg.out)
    plan, launcher = make_plan(table, cfg), build(cfg.launcher)
    require_writable(out)
    if not all(job.finished() for job in plan.jobs.values()) and (problem := _missing_folder(plan)):
        if isinstance(launcher, Local):
            raise UserError(problem)
        console.print(f"warning: {problem}", style="bold yellow", soft_wrap=True)  # other machines may have it
    launcher.run(list(plan.jobs.values()), out, typed)
    missing = [job for job in plan.jobs.values() if not job.finished()]
    if missing:
        console.print(
            f"{len(plan.jobs) - len(missing)} of {len(plan.jobs)} jobs are finished; the last writes the table."
        )
        return None
    path = write(gather(table, plan, list(cfg.seeds)), out / "tables")
    console.print(path.read_text(), soft_wrap=True)
    console.print(f"{path} (and .csv, .json, .png)", soft_wrap=True)
    return path


def _missing_folder(plan: Plan) -> str | None:
    """What a late job would lack, behind days of training."""
    for name, folder in plan.folders.items():
        if "://" not in folder and not Path(folder).expanduser().is_dir():
            return f"Expected the set {name} in the folder {folder}, but there is none."
    return None
