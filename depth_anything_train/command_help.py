"""What `depth-anything COMMAND --help` prints: the config file of the command, whose comments explain each key."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import OmegaConf

from depth_anything_train.composition import config_folder, overrides_in

GLOBAL = "# @package _global_\n"
"""How a file begins whose keys are those of the command itself."""


def command_help(name: str, arguments: Iterable[str] = ()) -> str:
    """The keys of a command with their defaults and comments, those of what was chosen, and what may be chosen.

    Args:
        name: the command.
        arguments: of the command line; a choice among them, such as `dataset=pairs`, adds its file.
    """
    folder = config_folder(name)
    parts = [_text(folder / f"{name}.yaml")]
    for choice in overrides_in(arguments):
        if (file := folder / f"{choice.replace('=', '/')}.yaml").is_file():
            group = "" if file.read_text().startswith(GLOBAL) else f", keys of {choice.partition('=')[0]}."
            parts.append(f"# -- {choice}{group}\n{_text(file)}")
    if choices := list(_choices(folder)):
        head = f"# Choices; `depth-anything {name} CHOICE --help` tells their keys, `--cfg job` all that there are."
        parts.append("\n".join([head, *choices]))
    return "\n\n".join(parts)


def _text(file: Path) -> str:
    return file.read_text().removeprefix(GLOBAL).rstrip()


def _choices(folder: Path) -> Iterator[str]:
    """Each group as it is typed, and its files, but for those that others build on, whose names start with `_`."""
    keys = _group_keys(folder)
    for group in sorted(path for path in folder.rglob("[!_]*") if path.is_dir()):
        typed = group.relative_to(folder).as_posix()
        above, _, last = typed.rpartition("/")
        prefix = ""
        if typed not in keys and above in keys:  # no group of its own: a folder of choices of the group above
            typed, prefix = above, f"{last}/"
        names = sorted(f"{prefix}{path.stem}" for path in group.glob("[!_]*.yaml"))
        if names:
            start = f"# {typed}{keys.get(typed, '')}= "
            yield textwrap.fill(", ".join(names), 118, initial_indent=start, subsequent_indent="#   ")


def _group_keys(folder: Path) -> dict[str, str]:
    """The groups that defaults lists name, and behind `@` where they go if that is not the place of their own name."""
    keys: dict[str, str] = {}
    for file in folder.rglob("*.yaml"):
        for entry in OmegaConf.select(OmegaConf.load(file), "defaults") or ():
            for key in () if isinstance(entry, str) else entry:
                group, at, package = key.removeprefix("override ").strip().partition("@")
                here = file.parent.relative_to(folder) if not group.startswith("/") else Path()
                keys.setdefault((here / group.lstrip("/")).as_posix(), f"{at}{package and 'PLACE'}")
    return keys
