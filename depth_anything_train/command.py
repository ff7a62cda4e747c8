"""From a function of a config to a command of the program: Hydra composes, mistakes become one sentence.

A command is `@command("name")` over `main(cfg)`, its keys are in `configs/name/name.yaml`, and `pyproject.toml` lists
it in the entry-point group `depth_anything.commands`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from depth_anything_train.runtime import INTERRUPTED, UserError, console
from depth_anything_train.values import check_inputs, check_values

# What a config may build: classes that are defined in these packages, and what our models have for constructors.
# Anything else is refused, so that a config from a stranger cannot call `os.system` or our own functions that write.
OURS = ("depth_anything_train.", "data_engine.")
ALLOWED_TARGETS = (*OURS, "torch.optim.", "pytorch_lightning.", "albumentations.")
ALLOWED_FUNCTIONS = "depth_anything_train.models."

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")
"""Beside the settings, what Hydra itself wants to know."""

SPECIAL = '"$`\\!'
"""What a shell changes inside double quotes."""

# We write the resolved config into the run folder ourselves; Hydra's own folders and log files stay away.
QUIET = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


def config_folder(name: str) -> Path:
    """The configs of a command: inside an installed package, or beside the packages in a checkout.

    Each command has a folder of its own, because Hydra takes `model=x` for a choice wherever a folder `model` is in
    sight: in `train` it is one, in `evaluate` it is a path.
    """
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return (installed if installed.is_dir() else package.parent / "configs") / name


def command(
    name: str, *, short_of_memory: str | Callable[[DictConfig], str] = "take a smaller batch or size"
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a Hydra app of `main(cfg)`: `key=value`, `--help`, `--cfg job`, `--multirun` read from the command line.

    A `UserError`, an unknown key and a missing value end with one sentence on stderr and exit status 2, and so does a
    lack of memory, with what to do about it.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def run(cfg: DictConfig, typed: list[str]) -> None:
            sys.argv = typed  # Lightning starts the processes of further devices with it, and adds hydra.* keys
            try:
                function(cfg)
            except UserError as error:
                _stop(error)
            except OmegaConfBaseException as error:
                _stop(_without_value(name, error))
            except OSError as error:
                where = f" with {error.filename}" if error.filename else ""
                reason = error.strerror or error
                _stop(f"`{name}` stopped{where}: {reason}; nothing finished is lost, mend it and run it again.")
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                tried = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
                wanted = f" (it tried to allocate {tried[1]})" if tried else ""
                advice = short_of_memory if isinstance(short_of_memory, str) else short_of_memory(cfg)
                _stop(f"`{name}` needs more memory than its device has{wanted}: {advice}.")
            except KeyboardInterrupt:
                _stop(f"`{name}` was interrupted; nothing finished is lost, run it again.", status=INTERRUPTED)

        @functools.wraps(function)
        def main() -> None:
            typed = list(sys.argv)
            arguments = typed[2:] if typed[1:2] == [name] else typed[1:]
            stop_at_mistakes(name, tuple(arguments))
            if {"--help", "-h"} & set(arguments):
                arguments = [*_required_choice(name, _overrides(arguments)), *arguments]
            sys.argv = [f"depth-anything {name}", *QUIET, *arguments]
            run_as_typed = functools.wraps(function)(lambda cfg: run(cfg, typed))
            hydra.main(version_base="1.3", config_path=str(config_folder(name)), config_name=name)(run_as_typed)()

        return main

    return decorate


@functools.cache
def stop_at_mistakes(name: str, arguments: tuple[str, ...]) -> None:
    """End with a sentence where arguments cannot be composed, or name something to read that is not there.

    This needs none of a command's own libraries, whose import takes seconds.
    """
    if any(argument.startswith("-") for argument in arguments):
        return  # flags such as --help and --multirun are Hydra's own business
    try:
        check_inputs(name, compose(name, _overrides(arguments)))
    except UserError as error:
        _stop(error)


def _overrides(arguments: Iterable[str]) -> list[str]:
    return [argument for argument in arguments if not argument.startswith(("-", "hydra."))]


def compose(name: str, overrides: list[str]) -> DictConfig:
    """Compose `configs/name/name.yaml` with `key=value` overrides, without running anything.

    Raises:
        UserError: an unknown key or choice (with the nearest known one), or a value that cannot be parsed or is of
            another kind than expected.
    """
    GlobalHydra.instance().clear()  # of the command that is running, if one asks for the config of another
    with hydra.initialize_config_dir(str(config_folder(name)), version_base="1.3"):
        try:
            composed = hydra.compose(name, overrides)
        except MissingConfigException as error:
            raise UserError(_unknown_choice(config_folder(name), overrides, error)) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_unknown_key(name, overrides) or " ".join(str(error).split())) from None
        check_values(name, config_folder(name), overrides, composed)
        return composed


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

    What else a constructor of ours raises than a `UserError` is a mistake in it, and goes through.

    Raises:
        UserError: a `_target_` outside `ALLOWED_TARGETS`, or settings that it does not have, or lacks.
    """
    for inner in _nodes(node):
        _check_settings(inner, _resolve(str(inner["_target_"])), arguments if inner is node else {})
    try:
        if arguments:  # called here, because Hydra would turn arguments that are dataclasses into configs
            return hydra.utils.instantiate(node, _partial_=True)(**arguments)
        return hydra.utils.instantiate(node)
    except InstantiationException as error:  # Hydra's wrapper around what a constructor raised
        cause = error.__cause__ or error
        raise (_refused(node, cause) if _is_of_a_key(cause, node) else cause) from None
    except (TypeError, ValueError) as error:
        if str(node["_target_"]).startswith(OURS) and not _is_of_a_key(error, node):
            raise
        raise _refused(node, error) from error  # a library's way to speak about values


def _required_choice(name: str, overrides: list[str]) -> list[str]:
    """Some choice for a group that needs one: who asks for help cannot know the choices yet."""
    try:
        with hydra.initialize_config_dir(str(config_folder(name)), version_base="1.3"):
            hydra.compose(name, overrides)
    except ConfigCompositionException as error:
        if found := re.search(r"You must specify '([^']+)'.*?options:\s+(\S+)", str(error), re.DOTALL):
            return [f"{found[1]}={found[2]}"]
    except (HydraException, OmegaConfBaseException):
        pass  # Hydra will say it
    return []


def _is_of_a_key(error: BaseException, node: Any) -> bool:
    """Whether a setting was passed on to a parent class that does not have it."""
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return unexpected is not None and any(unexpected[1] in inner for inner in _nodes(node))


def _refused(node: Any, cause: BaseException) -> UserError:
    reason = " ".join(str(cause).split()).rstrip(".")
    return UserError(f"The settings of {node.get('_target_', 'an object')} do not fit: {reason}; see `--cfg job`.")


def _nodes(node: Any) -> Iterator[Any]:
    """All nodes that name a `_target_`."""
    if isinstance(node, DictConfig | dict):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _nodes(node[key])
    elif isinstance(node, ListConfig | list | tuple):
        for item in node:
            yield from _nodes(item)


def _resolve(target: str) -> Callable[..., Any]:
    """What a `_target_` names, judged by where that is defined: modules also hold what they import.

    Raises:
        UserError: there is none, or it is not on the list.
    """
    found: Any = None
    if target.startswith(ALLOWED_TARGETS):  # before anything is imported
        try:
            found = hydra.utils.get_object(target)
        except ImportError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError | AttributeError | None):
                raise  # it is there, and broken
            raise UserError(f"A config names _target_: {target}, which does not exist.") from error
    origin = f"{getattr(found, '__module__', '')}."
    if not origin.startswith(ALLOWED_TARGETS if inspect.isclass(found) else ALLOWED_FUNCTIONS):
        allowed = ", ".join(prefix.rstrip(".") for prefix in ALLOWED_TARGETS)
        raise UserError(f"A config may build classes of {allowed}, but it names _target_: {target}.")
    return cast(Callable[..., Any], found)


def _check_settings(node: Any, target: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Compare the keys of a node with what its target takes.

    Raises:
        UserError: they are others.
    """
    given = {str(key): None for key in node if key not in HYDRA_KEYS} | dict(arguments)
    signature = inspect.signature(target)
    try:
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**given)
    except TypeError as error:
        raise _refused(node, error) from None


def _unknown_choice(folder: Path, overrides: list[str], error: MissingConfigException) -> str:
    wanted = str(error.missing_cfg_file)
    typed = (text.partition("=")[0].partition("@")[0] for text in overrides)
    # A choice may lie in a folder of its group, as paper/kitti in benchmark; what was typed says where the group ends.
    group = next((key for key in typed if wanted.startswith(f"{key}/")), wanted.rpartition("/")[0])
    choice = wanted.removeprefix(f"{group}/")
    files = (folder / group).rglob("[!_]*.yaml")
    options = sorted(str(path.relative_to(folder / group).with_suffix("")) for path in files)
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
        rest = overrides[:position] + overrides[position + 1 :]
        try:
            known = hydra.compose(name, rest)
        except (HydraException, OmegaConfBaseException):
            continue  # something else is wrong as well
        if _is_unknown(known, key):
            keys = list(_keys(known))
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"see `depth-anything {name} --help`."
            return f"{key} is no key of `{name}`; {hint}"
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
    keys_in_a_list = value.startswith("[") and "=" in value
    if not equals or (value[:1] in ("[", "{", "'", '"') and not keys_in_a_list):
        return ""
    quoted = as_override(key, value.strip("[]").split(",") if keys_in_a_list else value)
    return f"; write {shlex.quote(quoted) if set(quoted) & set(SPECIAL) else chr(34) + quoted + chr(34)}"


def _without_value(name: str, error: OmegaConfBaseException) -> str:
    """A key without a value, or one that names another key which does not exist."""
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing or isinstance(error, MissingMandatoryValue):
        key = missing[1] if missing else error.full_key
        return f"`{name}` needs a value for {key}: add {key}=... to the command."
    return f"{error.full_key} has no value: {str(error).partition(chr(10))[0]}; see `depth-anything {name} --cfg job`."


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(child := node[key], DictConfig):
            yield from _keys(child, f"{prefix}{key}.")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get the memory that it asked a GPU or the system for."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _stop(message: object, status: int = 2) -> NoReturn:
    console.print(f"error: {message}", style="bold red", soft_wrap=True)
    sys.exit(status)
