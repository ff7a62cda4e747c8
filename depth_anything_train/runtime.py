"""What every command shares: user errors, libraries that may be missing, seeds, progress bars, provenance of a run."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# No markup and no emoji: messages hold paths and lists, and square brackets and colons in them are meant.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


class UserError(ValueError):
    """Something the user can fix: the message says what was expected, what was given and what to do.

    The program prints it as one sentence and exits with status 2; it never shows a traceback.
    """


def require_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Raise a UserError that names `key` unless `value` is one of the choices."""
    if value not in (known := tuple(choices)):
        raise UserError(f"Expected {key} to be one of {', '.join(known)}, but got {value!r}.")


def require_count(key: str, value: object) -> None:
    """Raise a UserError that names `key` unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"Expected {key} to be a whole number of at least 1, but got {value!r}.")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value of one, value of the other) where two records differ; "nothing" stands for a key that one lacks."""
    pairs = ((key, one.get(key, "nothing"), other.get(key, "nothing")) for key in {**one, **other})
    return [(key, here, there) for key, here, there in pairs if here != there]


def require_share(key: str, value: float) -> None:
    """Raise a UserError that names `key` unless `value` lies in 0 to 1."""
    if not 0 <= value <= 1:
        raise UserError(f"Expected {key} to lie in 0 to 1, but got {value}.")


def import_extra(module: str, *, extra: str) -> Any:
    """Import a library that only some uses need, when one of them comes up.

    Raises:
        UserError: it is not installed; `extra` is the group of this package's requirements that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # it is there, but something of its own is not
            raise
        install = f'pip install "depth-anything-train[{extra}]"'
        raise UserError(f"Expected the library {error.name}, which is not installed; {install}.") from None


def fingerprint(content: Any) -> str:
    """A short hash of anything JSON can hold; equal content gives an equal hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


# -- Random numbers are a pure function of what they are for. ----------------------------------------------------------


def keyed_seed(*key: int | str) -> int:
    """A 64-bit seed from a key such as (seed, "crop", epoch, index): the same key gives the same seed everywhere."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def is_first_process() -> bool:
    """Whether this is the first of the processes of a training, by what torchrun, Lightning or srun told it.

    For messages printed before the process group exists; every process prints its own errors.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID"))


# -- What a person sees. -----------------------------------------------------------------------------------------------


class ProgressBar:
    """One bar with time left; in a log file, where a bar cannot be drawn, a line every ten seconds.

    `total` is None where nobody knows it: a stream ends when it ends. One that is not `shown` counts in silence, as all
    but one of several processes do.
    """

    def __init__(self, description: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        self.description, self.total, self.done, self.shown = description, total, done, shown
        self.start, self.first, self.next_line = time.monotonic(), done, 10.0
        self.bar: Progress | None = None

    def __enter__(self) -> ProgressBar:
        if self.shown and console.is_terminal:
            counts = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*counts, *left, console=console)
            self.bar.start()
            self.task = self.bar.add_task(self.description, total=self.total, completed=self.done, note="")
        return self

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Count `count` more items as done; `note` stands behind the bar."""
        self.done += count
        if not self.shown:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        elapsed = time.monotonic() - self.start
        if elapsed >= self.next_line or self.done == self.total:
            self.next_line = elapsed + 10.0
            line = f"{self.description}: {self.done}"
            if self.total is None:
                line += f", {elapsed:.0f} s {note}"
            else:
                left = elapsed / max(self.done - self.first, 1) * max(self.total - self.done, 0)
                line += f"/{self.total}, {elapsed:.0f} s, {left:.0f} s left {note}"
            console.print(line.rstrip(), soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


COMMAND_LINE = "DEPTH_ANYTHING_COMMAND"
"""In the environment, because processes that are started for further devices belong to the same command."""


def provenance() -> dict[str, Any]:
    """Where a result comes from: command, commit, versions, machine kind. Paths are in it as typed."""
    versions = {name: metadata.version(name) for name in ("torch", "timm", "pytorch-lightning", "numpy")}
    return {
        "command": os.environ.get(COMMAND_LINE, "called from Python"),
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }


def _commit(root: Path) -> str:
    """The commit of the checkout in `root`, if it is one: a package may be installed inside somebody else's."""
    if not (root / ".git").exists():
        return "installed package"
    try:
        git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout of another user, which it refuses
        return "unknown"
    return git.stdout.strip()
