"""What `depth-anything COMMAND --help` prints: the config file of the command, whose comments explain each key."""

from __future__ import annotations

import textwrap
from pathlib import Path

from depth_anything_train.composition import config_folder


def command_help(name: str) -> str:
    """The keys of a command with their defaults and comments, then what each of its groups can be."""
    folder = config_folder(name)
    lines = [(folder / f"{name}.yaml").read_text().rstrip()]
    groups = sorted(path for path in folder.rglob("[!_]*") if path.is_dir())
    choices = [line for group in groups if (line := _choices(folder, group))]
    if choices:
        lines += ["", f"# Choices, as group=name; `depth-anything {name} ... --cfg job` shows the outcome.", *choices]
    return "\n".join(lines)


def _choices(folder: Path, group: Path) -> str:
    """A group and its files, but for those that others build on, whose names start with `_`."""
    names = sorted(path.stem for path in group.glob("[!_]*.yaml"))
    start = f"# {group.relative_to(folder).as_posix()}: "
    return textwrap.fill(", ".join(names), 118, initial_indent=start, subsequent_indent="#   ") if names else ""
