"""`depth-anything run pipeline=...`: a named list of stages, each an ordinary command of the program.

A stage is a process of its own (several GPUs start several processes from one command line, which must then be the
stage's and not the pipeline's). A finished stage leaves `stages/<name>.json`; the next run skips it. What a stage does
when it was interrupted is its own business: `prepare`, `label` and `train` all continue where they stood.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.command import command
from depth_anything_train.composition import plain
from depth_anything_train.files import read_json, require_writable, write_json
from depth_anything_train.locks import only_run_in
from depth_anything_train.overrides import as_override
from depth_anything_train.runtime import UserError, console, fingerprint
from depth_anything_train.signals import INTERRUPTED, PARENT, RUN_AGAIN, STOP_SIGNALS, handling, leaving_on_request

ENDED_ON_REQUEST = (0, INTERRUPTED, *(-number for number in STOP_SIGNALS))
"""Statuses of a stage that was asked to stop and has no state to save: the signal's, or that it was nearly done."""


@dataclass(frozen=True)
class Stage:
    """One command of a pipeline; `key` changes with its arguments and with every stage before it.

    What it makes is in `out`; `reads` is the raw data that it needs.
    """

    name: str
    arguments: tuple[str, ...]
    key: str
    out: Path | None = None
    reads: Path | None = None

    @property
    def shown(self) -> str:
        """The line a user would type."""
        return shlex.join(["depth-anything", *self.arguments])


@command("run")
def main(cfg: DictConfig) -> None:
    """Run the stages of a pipeline one after another."""
    run_pipeline(plan(cfg), Path(cfg.out))


def plan(cfg: DictConfig) -> list[Stage]:
    """The stages of a composed pipeline config, in its order.

    Raises:
        UserError: a stage has no command, or no arguments.
    """
    stages: list[Stage] = []
    for name, node in cfg.stages.items():
        if not (isinstance(node, DictConfig) and "command" in node and isinstance(node.get("args"), DictConfig)):
            raise UserError(f"Expected `command` and `args` for stages.{name}, but got {plain(node)}.")
        values: Any = OmegaConf.to_container(node.args, resolve=True)
        arguments = (node.command, *(as_override(str(k), v) for k, v in values.items()))
        key = fingerprint([arguments, [stage.key for stage in stages]])
        places = {key: Path(values[key]).expanduser() for key in ("out", "root") if values.get(key) is not None}
        stages.append(Stage(str(name), arguments, key, places.get("out"), places.get("root")))
    return stages


def run_pipeline(stages: list[Stage], out: Path) -> None:
    """Run what is not finished yet.

    Raises:
        UserError: a stage failed; the message names it and the command that repeats it.
        SystemExit: with `RUN_AGAIN` if it was asked to stop; what is finished is kept.
    """
    marks = out / "stages"
    require_writable(marks)
    _check_reads(stages, marks)
    with leaving_on_request(), only_run_in(out):
        for number, stage in enumerate(stages, 1):
            place = f"({number}/{len(stages)}) {stage.name}"
            mark = _mark(marks, number, stage)
            if _is_finished(stage, mark):
                console.print(f"{place}: finished before", style="dim")
                continue
            console.print(place, style="bold")
            seconds = run_stage(stage)
            write_json(mark, {"name": stage.name, "command": stage.shown, "key": stage.key, "seconds": seconds})


def _mark(marks: Path, number: int, stage: Stage) -> Path:
    return marks / f"{number:02d}-{stage.name}.json"


def _is_finished(stage: Stage, mark: Path) -> bool:
    there = stage.out is None or stage.out.exists()
    return there and mark.exists() and bool(read_json(mark, keys=("key",))["key"] == stage.key)


def _check_reads(stages: list[Stage], marks: Path) -> None:
    """Raw data that a later stage lacks is missed before the first one has worked for hours.

    Raises:
        UserError: it is not there, and no stage makes it.
    """
    for number, stage in enumerate(stages, 1):
        root, made = stage.reads, [before.out.resolve() for before in stages[: number - 1] if before.out is not None]
        if root is None or root.exists() or any(root.resolve().is_relative_to(out) for out in made):
            continue
        if not _is_finished(stage, _mark(marks, number, stage)):
            raise UserError(f"Expected {root}, which stage {stage.name} reads, but it does not exist; check the path.")


def run_stage(stage: Stage) -> float:
    """Run one stage, whether or not it is finished, and return the seconds it took.

    Raises:
        UserError: it failed; the message names it and the command that repeats it.
        SystemExit: with `RUN_AGAIN` if it was asked to stop and saved its state.
    """
    console.print(stage.shown, style="dim", soft_wrap=True)
    start = time.monotonic()
    status = _status_of(stage)
    if status == RUN_AGAIN:
        raise SystemExit(RUN_AGAIN)
    if status != 0:
        raise UserError(
            f"stage {stage.name} ended with status {status}; finished stages are kept, run the same command "
            f"again to continue, or this stage alone: {stage.shown}"
        )
    return round(time.monotonic() - start, 1)


def _status_of(stage: Stage) -> int:
    """The stage's exit status. A request to stop is passed on, and the stage may save its state first."""
    program = [sys.executable, "-m", "depth_anything_train.cli", *stage.arguments]
    process = subprocess.Popen(program, env={**os.environ, PARENT: str(os.getpid())})
    asked = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if number != signal.SIGINT:  # a terminal sends Ctrl-C to the stage as well; a scheduler may tell us alone
            process.terminate()

    with handling(STOP_SIGNALS, pass_on):
        status = process.wait()
    return RUN_AGAIN if asked and status in ENDED_ON_REQUEST else status
