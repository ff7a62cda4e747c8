"""Values from the command line, compared with what the configs expect before anything is built or written."""

from __future__ import annotations

import glob
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from depth_anything_train.overrides import as_override, in_shell
from depth_anything_train.runtime import UserError

SMALLEST = {
    **dict.fromkeys(("steps", "size", "count", "limit", "batch_size", "patience", "num_samples"), 1),
    **dict.fromkeys(("samples_per_shard", "height", "width"), 1),
    **dict.fromkeys(("batch.labelled", "batch.unlabelled", "batch.semantic"), 1),
    **dict.fromkeys(("max_in_a_row", "threads", "max_per_device", "tasks", "shuffle_shards"), 1),
    **dict.fromkeys(("workers", "seed", "per_group", "label_examples", "warmup_steps", "retries", "task"), 0),
}
"""Whole numbers by the last part of their key or the last two, whatever their default, and the smallest sensible."""

LARGEST_SEED = 2**32 - 1
NUMBERS = ("scale", "invalid", "aspect", "clip_norm", "max_depth_m", "canonical_focal_px", "fov_deg")
"""Numbers whose default is null."""

NEVER_NULL = ("device", "host", "max_bad_share", "percentile", "port", "precision")
"""Numbers and words that something always needs."""

LISTS = ("aspects",)
"""Lists whose default is null."""

EITHER = ("taps", "size")
"""A list, or a name or number that stands for one."""

PATHS = ("out", "root", "model", "init", "teacher", "shards", "pairs", "photos", "measured", "check")

SEVERAL = {"app": ("model",)}
"""By command, which of them may also be a list of paths."""

INPUTS = {
    **dict.fromkeys(("train", "doctor"), ("labelled", "unlabelled", "validation")),
    **dict.fromkeys(("label", "verify"), ("shards",)),
    **dict.fromkeys(("evaluate", "segment"), ("data",)),
    "predict": ("source",),
    "leaks": ("train", "test"),
}
"""By command, the keys of what it reads: a path, several, or several by name."""


def check_values(name: str, folder: Path, overrides: list[str], composed: DictConfig) -> None:
    """Compare what was given on the command line with the kind of the default that it replaces.

    Args:
        name: the command; Hydra is initialised with its configs.
        folder: the folder of the command's configs.
        overrides: `key=value` texts that can be composed.
        composed: the config composed with the overrides.

    Raises:
        UserError: a number, list or path was expected and something else came.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [override for override in parsed if _is_choice(folder, override)]
    values = [override for override in parsed if override not in choices and not override.is_delete()]
    if not values:
        return
    try:
        plain = _without_values(name, tuple(override.input_line or "" for override in choices))
    except (HydraException, OmegaConfBaseException):  # these choices need one of the values: nothing to compare with
        return
    for override in values:
        key, value = override.key_or_group, select(composed, override.key_or_group)
        if value is None and OmegaConf.is_missing(plain, key):
            raise UserError(f"Expected a value for {key}, but got null.")
        several = isinstance(value, ListConfig) and key in SEVERAL.get(name, ())
        for one in value if several else [value]:
            typed = (override.input_line or "").partition("=")[2]
            check_value(key, one, select(plain, key), typed)


@lru_cache(maxsize=128)  # several rows of a table have the same choices
def _without_values(name: str, choices: tuple[str, ...]) -> DictConfig:
    """The config of a command with what the choices bring and all else as it is by default; not to be changed."""
    return hydra.compose(name, list(choices))


def check_inputs(name: str, composed: DictConfig) -> None:
    """Look for the files and folders of this machine that a command is to read.

    Raises:
        UserError: one is not there.
    """
    if "suite" in composed:  # a table says itself which sets it lacks
        return
    for key in INPUTS.get(name, ()):
        for path in _texts(select(composed, key)):
            elsewhere = "://" in path or path.isdecimal() or glob.has_magic(path) or "{" in path
            if not elsewhere and not Path(path).expanduser().exists():
                raise UserError(f"Expected {key} to name what is there, but {path} does not exist; check the path.")


def _texts(value: Any) -> list[str]:
    """All texts in a value, in a list or mapping too."""
    if isinstance(value, DictConfig | ListConfig):
        inner = value.values() if isinstance(value, DictConfig) else value
        return [text for one in inner for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def check_value(key: str, value: Any, default: Any, typed: str = "") -> None:
    """Check one value against the default that it replaces (None where that says nothing); `typed` is for the message.

    Raises:
        UserError: it is of another kind.
    """
    last = key.rpartition(".")[2]
    smallest = SMALLEST.get(last, SMALLEST.get(".".join(key.split(".")[-2:])))
    if key.startswith("trainer."):  # Lightning checks its own; several of them are numbers or words
        return
    if last in PATHS and (isinstance(value, int | float) or value == ""):
        hint = f"write {key}=./{typed or value}" if value != "" else "name one"
        raise UserError(f"Expected a path for {key}, but got {_shown(value)}; {hint}.")
    if last == "source" and isinstance(value, float):
        raise UserError(f"Expected a path, a camera's number or an address for {key}; write {key}=./{typed or value}.")
    if last == "source" and OmegaConf.is_config(value):
        raise UserError(f"Expected one {key}, but got {value}; write them into a text file, one a line, and name that.")
    if last in PATHS and OmegaConf.is_config(value) and not OmegaConf.is_config(default):
        raise UserError(f"Expected one path for {key}, but got {value}; write {key}=PATH.")
    if last == "out" and isinstance(value, str) and "://" in value:
        raise UserError(f"Expected a path of this machine for {key}, but got {value!r}; write here, copy it then.")
    if smallest is not None and not isinstance(value, DictConfig | ListConfig) and not isinstance(default, ListConfig):
        _check_whole(key, value, default, smallest)
    elif isinstance(default, bool):  # before numbers: a bool is an int to Python
        if not isinstance(value, bool):
            raise UserError(f"Expected true or false for {key}, but got {_shown(value)}.")
    elif value is None and last in NEVER_NULL:
        raise UserError(f"Expected a value such as {default} for {key}, but got null.")
    elif last in EITHER and isinstance(value, ListConfig):
        return
    elif (last in NUMBERS or isinstance(default, int | float)) and value is not None and not _is_number(value):
        raise UserError(f"Expected a number for {key}, but got {_shown(value)}.")
    elif (
        (isinstance(default, ListConfig) or last in LISTS)
        and last not in EITHER
        and not isinstance(value, ListConfig)
        and value is not None
    ):
        raise UserError(
            f"Expected a list for {key}, but got {_shown(value)}; write {in_shell(as_override(key, [value]))}."
        )


def _check_whole(key: str, value: Any, default: Any, smallest: int) -> None:
    if value is None and default is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise UserError(f"Expected a whole number of at least {smallest} for {key}, but got {_shown(value)}.")
    if key.rpartition(".")[2] == "seed" and value > LARGEST_SEED:
        raise UserError(f"Expected a seed of at most {LARGEST_SEED}, but got {value}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return "null" if value is None else "nothing" if value == "" else repr(value)


def _is_choice(folder: Path, override: Any) -> bool:
    return (folder / override.key_or_group.partition("@")[0]).is_dir()


def select(config: DictConfig, key: str) -> Any:
    """The value of a key by its full name; None where there is none, or none yet."""
    try:
        return OmegaConf.select(config, key, default=None)
    except OmegaConfBaseException:  # depends on a key without a value
        return None
