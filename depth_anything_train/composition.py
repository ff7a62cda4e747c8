"""From `key=value` to a config: Hydra composes it from `configs`, mistakes become one sentence with the nearest key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from depth_anything_train.overrides import as_override, in_shell
from depth_anything_train.runtime import UserError
from depth_anything_train.values import check_values, select


def config_folder(name: str) -> Path:
    """The configs of a command: inside an installed package, or beside the packages in a checkout.

    Each command has a folder of its own, because Hydra takes `model=x` for a choice wherever a folder `model` is in
    sight: in `train` it is one, in `evaluate` it is a path.
    """
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return (installed if installed.is_dir() else package.parent / "configs") / name


def choices_in(group: Path) -> list[str]:
    """What a group can be, by the paths of its files; those that others build on have names that start with `_`."""
    files = (path.relative_to(group).with_suffix("") for path in group.rglob("*.yaml"))
    return sorted(file.as_posix() for file in files if not any(part.startswith("_") for part in file.parts))


def overrides_in(arguments: Iterable[str]) -> list[str]:
    """What a command line sets, without flags such as `--help` and what is Hydra's own."""
    own = (argument for argument in arguments if not argument.startswith("-"))
    return [argument for argument in own if not argument.lstrip("+~").startswith("hydra.")]


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Compose `configs/NAME/NAME.yaml` with `key=value` overrides, without running anything.

    Raises:
        UserError: an unknown key or choice (with the nearest known one), or a value that cannot be parsed or is of
            another kind than expected.
    """
    return _without_hydra(_compose(name, overrides))


def compose_command(name: str, overrides: list[str]) -> DictConfig:
    """The same for the command that this process runs: `HydraConfig` and `${hydra:...}` tell what was chosen.

    Raises:
        UserError: as `compose`.
    """
    composed = _compose(name, overrides)
    HydraConfig.instance().set_config(composed)
    return _without_hydra(composed)


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _compose(name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()  # of the command that is running, if one asks for the config of another
    with hydra.initialize_config_dir(str(config_folder(name)), version_base="1.3"):
        try:
            composed = hydra.compose(name, overrides, return_hydra_config=True)
        except MissingConfigException as error:
            raise UserError(_unknown_choice(config_folder(name), overrides, error)) from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last of a name in place of a number
            reason = _unknown_key(name, overrides) or _has_no_group(error) or " ".join(str(error).split())
            raise UserError(reason) from None
        check_values(name, config_folder(name), overrides, composed)
        if any(text.startswith("+") for text in overrides):
            _check_added(name, overrides, composed)
        return composed


def plain(node: Any) -> Any:
    """A value of a config as lists, dicts and texts."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _unknown_choice(folder: Path, overrides: list[str], error: MissingConfigException) -> str:
    wanted = str(error.missing_cfg_file)
    typed = (text.partition("=")[0].partition("@")[0] for text in overrides)
    # A choice may lie in a folder of its group, as paper/kitti in benchmark; what was typed says where the group ends.
    group = next((key for key in typed if wanted.startswith(f"{key}/")), wanted.rpartition("/")[0])
    choice = wanted.removeprefix(f"{group}/")
    options = choices_in(folder / group)
    near = difflib.get_close_matches(choice, options, n=1, cutoff=0.4)
    hint = f"; did you mean {group}={near[0]}?" if near else "."
    listed = f" Known: {', '.join(options)}" if options else ""
    return f"{group or 'config'}={choice} is not known{hint}{listed}"


def _unknown_key(name: str, overrides: list[str]) -> str | None:
    """Name the override that does not fit and the known key nearest to it, or None where the reason is another."""
    parser = OverridesParser.create()
    for position, text in enumerate(overrides):
        try:
            override = parser.parse_override(text)
            key = override.key_or_group
            if override.is_sweep_override():
                return f"{text!r} names several values: expected one{_quoting(text)}, or a list in brackets."
        except HydraException:
            return f"{text!r} cannot be read: expected key=value{_quoting(text)}."
        if (config_folder(name) / key.partition("@")[0]).is_dir():
            continue  # a choice, which may leave no key of its name
        rest = overrides[:position] + overrides[position + 1 :]
        choices = [one for one in rest if (config_folder(name) / one.partition("@")[0].partition("=")[0]).is_dir()]
        try:
            known = hydra.compose(name, choices)  # without the other values, which may be wrong as well
        except (HydraException, OmegaConfBaseException):
            continue
        if _is_unknown(known, key):
            keys = list(_keys(known))
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"see `depth-anything {name} --help`."
            return f"{key} is no key of `{name}`; {hint}"
        if kind := _other_kind(known, key, override.value()):
            return kind
    return None


def _has_no_group(error: Exception) -> str | None:
    """Two choices that do not go together: one chooses in a group that the other leaves out."""
    found = re.match(r"In '(.+)/(.+)': Could not override '(.+)'\. No match in the defaults list", str(error))
    if found is None:
        return None
    folder, choice, group = found.groups()
    return f"{folder}={choice} chooses another {group}, but there is none: expected an experiment with {group}."


def _check_added(name: str, overrides: list[str], composed: DictConfig) -> None:
    """Refuse `+key=value` for a command's own keys that it does not have, unless others repeat it as `${key}`.

    Inside of a group `+` may name what the group's class takes, and the class refuses the rest.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    for override in parsed:
        key = override.key_or_group
        is_own = "." not in key and not (config_folder(name) / key.partition("@")[0]).is_dir()
        if not (is_own and (override.is_add() or override.is_force_add())):
            continue
        known = list(hydra.compose(name, [other.input_line or "" for other in parsed if other is not override]))
        if key not in known and f"${{{key}}}" not in OmegaConf.to_yaml(composed):
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"see `depth-anything {name} --help`."
            raise UserError(f"{key} is no key of `{name}`, and + makes none that is read; {hint}")


def _other_kind(known: DictConfig, key: str, value: Any) -> str | None:
    """A list in place of a mapping, or the reverse, of which Hydra says only that it cannot merge them, or no place."""
    default = select(known, key)
    outer, _, last = key.rpartition(".")
    given = select(known, outer) if outer else None
    if isinstance(given, ListConfig) and not (last.isdecimal() and int(last) < len(given)):
        return f"Expected a list for {outer}, which has {len(given)} items and no {last}; write {outer}=[A,B,...]."
    if isinstance(default, ListConfig) and isinstance(value, dict):
        return f"Expected a list for {key}, but got {value}; write {in_shell(as_override(key, [*value.values()]))}."
    if isinstance(default, DictConfig) and isinstance(value, list):
        return f"Expected names and values for {key}, but got {value}; write {key}.NAME=VALUE for each."
    return None


def _is_unknown(known: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    try:
        node = OmegaConf.select(known, parent) if parent else known
        return not OmegaConf.is_config(node) or (isinstance(node, DictConfig) and last not in node.keys())
    except OmegaConfBaseException:  # it is there, but what it names has no value yet
        return False


def _quoting(text: str) -> str:
    """How to write a value with spaces, commas or brackets: inside quotes of its own, which the shell must leave."""
    key, equals, value = text.partition("=")
    plain_list = re.fullmatch(r"\[[^\[\]{}'\"]*\]", value)
    if not equals or (value[:1] in ("[", "{", "'", '"') and not plain_list):
        return ""
    quoted = as_override(key, [one.strip() for one in value[1:-1].split(",")] if plain_list else value)
    return f"; write {in_shell(quoted)}" if quoted != text else ""


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(child := node[key], DictConfig):
            yield from _keys(child, f"{prefix}{key}.")
