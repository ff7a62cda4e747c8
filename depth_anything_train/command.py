"""From a function of a config to a command of the program.

A command is `@command("name")` over `main(cfg)`, its keys are in `configs/NAME/NAME.yaml`, and `pyproject.toml` lists
it in the entry-point group `depth_anything.commands`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from depth_anything_train.composition import compose_command, config_folder, overrides_in
from depth_anything_train.files import TEMPORARY
from depth_anything_train.run_folder import FINISHED
from depth_anything_train.runtime import UserError, console
from depth_anything_train.signals import INTERRUPTED
from depth_anything_train.values import check_inputs

# We write the resolved config into the run folder ourselves; Hydra's own folders and log files stay away.
QUIET = [
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
"""Options of Hydra that the next argument belongs to."""


def command(
    name: str,
    *,
    short_of_memory: str | Callable[[DictConfig], str] = "take a smaller batch_size or size",
    again: str = "run it again",
) -> Callable[[Callable[[DictConfig], Any]], Callable[..., None]]:
    """Make a program of `main(cfg)`, which reads its config from the command line unless it is given one.

    `key=value` is composed here; an option such as `--cfg job` or `--multirun` makes it a Hydra app, which takes longer
    to start.

    A `UserError`, an unknown key and a missing value end with one sentence on stderr and exit status 2, and so does a
    lack of memory, with `short_of_memory` as what to do about it; other ends advise `again`.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def run(cfg: DictConfig) -> None:
            def advice() -> str:
                return short_of_memory if isinstance(short_of_memory, str) else short_of_memory(cfg)

            with _ending_in_a_sentence(name, advice, again):
                function(cfg)

        @functools.wraps(function)
        def main(cfg: DictConfig | None = None) -> None:
            arguments = sys.argv[2:] if sys.argv[1:2] == [name] else sys.argv[1:]
            if cfg is None:
                cfg = read_command_line(name, arguments)
            if cfg is not None:
                run(cfg)
            else:
                _run_by_hydra(name, arguments, run)

        return main

    return decorate


@contextmanager
def _ending_in_a_sentence(name: str, short_of_memory: Callable[[], str], again: str) -> Iterator[None]:
    """What a user can do something about ends the program with one sentence instead of a traceback."""
    try:
        yield
    except UserError as error:
        _stop(error)
    except OmegaConfBaseException as error:
        _stop(_without_value(name, error))
    except OSError as error:
        named = re.sub(TEMPORARY, r"\1", str(error.filename))
        where = f" with {named}" if error.filename else ""
        reason = error.strerror or error
        _stop(f"`{name}` stopped{where}: {reason}; nothing finished is lost, fix the cause and {again}.")
    except RuntimeError as error:
        if death := death_of_worker(error):
            advice = f"perhaps for lack of memory; nothing finished is lost, {again} with fewer workers="
            _stop(f"`{name}` lost a process that loads images (it {death}), {advice}.")
        if not is_out_of_memory(error):
            raise
        tried = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        wanted = f" (it tried to allocate {tried[1]})" if tried else ""
        _stop(f"`{name}` needs more memory than its device has{wanted}: {short_of_memory()}.")
    except KeyboardInterrupt:
        _stop(f"`{name}` was interrupted; nothing finished is lost, {again}.", status=INTERRUPTED)


def _run_by_hydra(name: str, arguments: Sequence[str], run: Callable[[DictConfig], None]) -> None:
    """Let Hydra do what an option asks for, such as `--cfg job`, or `--multirun` with several values of a key."""
    typed = list(sys.argv)

    def run_as_typed(cfg: DictConfig) -> None:
        _expand_home(cfg)
        sys.argv = typed  # Lightning starts the processes of further devices with it
        run(cfg)

    # Behind an option such as `--cfg job` Hydra takes no key=value any more.
    keys, options = _apart(arguments)
    with tempfile.TemporaryDirectory() as sweep:  # Hydra's notes on the jobs of a sweep
        sys.argv = [f"depth-anything {name}", *QUIET, f"hydra.sweep.dir={sweep}", *keys, *options]
        hydra.main(version_base="1.3", config_path=str(config_folder(name)), config_name=name)(run_as_typed)()


def read_command_line(name: str, arguments: Sequence[str]) -> DictConfig | None:
    """The config that `key=value` arguments make; None if an option such as `--multirun` leaves that to Hydra.

    Ends with one sentence if they cannot be composed, or name an input that does not exist. This needs none of a
    command's own libraries, whose import takes seconds.
    """
    if any(argument.startswith("-") for argument in arguments):
        return None
    try:
        cfg = compose_command(name, overrides_in(arguments))
        _expand_home(cfg)
        finished = name == "train" and (Path(str(OmegaConf.select(cfg, "out"))) / FINISHED).exists()
        if not finished:  # such a training reads nothing
            check_inputs(name, cfg)
    except UserError as error:
        _stop(error)
    return cfg


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What sets or deletes a key, and Hydra's options with their values."""
    keys: list[str] = []
    options: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = argument.startswith("-") or before in WITH_VALUE
        is_key = not is_option and ("=" in argument or argument.startswith("~"))
        (keys if is_key else options).append(argument)
    return keys, options


def _expand_home(cfg: DictConfig) -> None:
    """`~` stands for the home folder in what is written, too: quotes keep it from the shell. (Readers look for it.)"""
    for key, value in OmegaConf.to_container(cfg).items():  # type: ignore[union-attr]
        if key in ("out", "page", "sheet") and isinstance(value, str) and value.startswith("~"):
            cfg[key] = os.path.expanduser(value)


def _without_value(name: str, error: OmegaConfBaseException) -> str:
    """A key without a value, or one that names another key which does not exist."""
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing or isinstance(error, MissingMandatoryValue):
        key = missing[1] if missing else error.full_key
        return f"`{name}` needs a value for {key}: add {key}=... to the command."
    return f"{error.full_key} has no value: {str(error).partition(chr(10))[0]}; see `depth-anything {name} --cfg job`."


def death_of_worker(error: RuntimeError) -> str | None:
    """How a process that loads images ended, where torch says that one did; it may do so anywhere, on a signal."""
    death = re.match(r"DataLoader worker \(pid.*?\d\) ([^.]+)", str(error))
    return death and death[1]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get the memory that it asked a GPU or the system for."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _stop(message: object, status: int = 2) -> NoReturn:
    console.print(f"error: {message}", style="bold red", soft_wrap=True)
    sys.exit(status)
