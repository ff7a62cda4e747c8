"""From a function of a config to a command of the program: Hydra composes, mistakes become one sentence.

A command is `@command("name")` over `main(cfg)`, its keys are in `configs/name/name.yaml`, and `pyproject.toml` lists
it in the entry-point group `depth_anything.commands`.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from depth_anything_train.runtime import UserError, console

# What a config may build. Anything else is refused, so that a config from a stranger cannot call `os.system`.
ALLOWED_TARGETS = ("depth_anything_train.", "data_engine.", "torch.optim.", "pytorch_lightning.", "albumentations.")

# We write the resolved config into the run folder ourselves; Hydra's own folders and log files stay away.
QUIET = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
]


def config_folder(name: str) -> Path:
    """The configs of a command: inside an installed package, or beside the packages in a checkout.

    Each command has a folder of its own, because Hydra takes `model=x` for a choice wherever a folder `model` is in
    sight: in `train` it is one, in `evaluate` it is a path.
    """
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return (installed if installed.is_dir() else package.parent / "configs") / name


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a Hydra app of `main(cfg)`: `key=value`, `--help`, `--cfg job`, `--multirun` read from the command line.

    A `UserError`, an unknown key and a missing value end with one sentence on stderr and exit status 2.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def run(cfg: DictConfig) -> None:
            try:
                function(cfg)
            except UserError as error:
                _stop(error)
            except MissingMandatoryValue as error:
                _stop(f"`{name}` needs a value for {error.full_key}: add {error.full_key}=... to the command.")

        @functools.wraps(function)
        def main() -> None:
            arguments = sys.argv[1:]
            overrides = [a for a in arguments if not a.startswith("-")]
            if len(overrides) == len(arguments):  # flags such as --help and --multirun are Hydra's own business
                try:
                    compose(name, overrides)
                except UserError as error:
                    _stop(error)
            sys.argv[1:] = [*QUIET, *arguments]
            hydra.main(version_base="1.3", config_path=str(config_folder(name)), config_name=name)(run)()

        return main

    return decorate


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Compose `configs/name/name.yaml` with `key=value` overrides, without running anything.

    Raises:
        UserError: an unknown key or choice (with the nearest known one) or a value that cannot be parsed.
    """
    with hydra.initialize_config_dir(str(config_folder(name)), version_base="1.3"):
        try:
            return hydra.compose(name, overrides)
        except MissingConfigException as error:
            raise UserError(_unknown_choice(error)) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_unknown_key(name, overrides) or " ".join(str(error).split())) from None


def as_override(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it; text is quoted where it has to be (folders may hold spaces and commas)."""
    return f"{key}={_as_text(value)}"


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{_as_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_as_text, value)) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./*@+-]+", value):
        # Hydra takes a backslash as it is, except before the quote.
        escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
        return f"'{escaped}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def build(node: Any, **arguments: Any) -> Any:
    """Instantiate a config node by its `_target_`, if that is on the list of what a config may build.

    Raises:
        UserError: a `_target_` outside `ALLOWED_TARGETS`.
    """
    for target in _targets(node):
        if not target.startswith(ALLOWED_TARGETS):
            allowed = ", ".join(prefix.rstrip(".") for prefix in ALLOWED_TARGETS)
            raise UserError(f"A config may build things from {allowed}, but it names _target_: {target}.")
    try:
        if arguments:  # called here, because Hydra would turn arguments that are dataclasses into configs
            return hydra.utils.instantiate(node, _partial_=True)(**arguments)
        return hydra.utils.instantiate(node)
    except InstantiationException as error:  # Hydra's wrapper around what a constructor raised
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig | dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key])
    elif isinstance(node, ListConfig | list | tuple):
        for item in node:
            yield from _targets(item)


def _unknown_choice(error: MissingConfigException) -> str:
    wanted = str(error.missing_cfg_file)
    group, _, choice = wanted.rpartition("/")
    options = list(error.options or [])
    near = difflib.get_close_matches(choice, options, n=1, cutoff=0.4)
    hint = f"; did you mean {group}={near[0]}?" if near else "."
    listed = f" Known: {', '.join(options)}" if options else ""
    return f"{group or 'config'}={choice} is not known{hint}{listed}"


def _unknown_key(name: str, overrides: list[str]) -> str | None:
    """Name the override that does not fit and the known key nearest to it, or None where the reason is another."""
    parser = OverridesParser.create()
    for position, text in enumerate(overrides):
        try:
            key = parser.parse_override(text).key_or_group
        except HydraException:
            return f"{text!r} cannot be read: expected key=value (quote values that hold spaces, commas or brackets)."
        rest = overrides[:position] + overrides[position + 1 :]
        try:
            known = hydra.compose(name, rest)
        except (HydraException, OmegaConfBaseException):
            continue  # something else is wrong as well
        if OmegaConf.select(known, key, default=None) is None and key not in (keys := list(_keys(known))):
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"see `depth-anything {name} --help`."
            return f"{key} is no key of `{name}`; {hint}"
    return None


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        if not OmegaConf.is_missing(node, key) and isinstance(child := OmegaConf.select(node, str(key)), DictConfig):
            yield from _keys(child, f"{prefix}{key}.")


def _stop(message: object) -> None:
    console.print(f"error: {message}", style="bold red", soft_wrap=True)
    sys.exit(2)
