"""From a table to the commands behind it: data, trainings, labels and evaluations, each once.

A job's folder is named by everything that decides what comes out of the job, so that equal rows of several tables are
one run, and what is finished is never made again. Folders of the user count by their paths: of samples that change in
place nothing here knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from depth_anything_train.data.schema import DATASET_FILE
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.metrics.results import RESULTS_FILE
from depth_anything_train.overrides import as_override
from depth_anything_train.pipeline import Stage
from depth_anything_train.run_folder import FINISHED
from depth_anything_train.runtime import UserError, fingerprint


@dataclass(frozen=True)
class Job:
    """One command of the program.

    Attributes:
        command: `prepare`, `train`, `label` or `evaluate`.
        overrides: its keys, without `out`.
        out: its folder.
        needs: jobs that have to be finished before it.
    """

    command: str
    overrides: tuple[str, ...]
    out: Path
    needs: tuple[Job, ...] = ()

    @property
    def name(self) -> str:
        """Unique among all jobs whose folders lie in the same place."""
        return f"{self.command}-{self.out.name}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows `depth-anything` on the command line."""
        return (self.command, *self.overrides, as_override("out", str(self.out)))

    @property
    def stage(self) -> Stage:
        """The same for a pipeline."""
        return Stage(self.name, self.arguments, key=self.name)

    def finished(self) -> bool:
        """Whether its outcome is there and complete."""
        return _FINISHED[self.command](self.out)


def _labels_are_whole(folder: Path) -> bool:
    try:
        PseudoLabelSource([folder])
    except UserError:
        return False
    return True


# Each command writes this last.
_FINISHED: dict[str, Callable[[Path], bool]] = {
    "prepare": lambda out: (out / DATASET_FILE).exists(),
    "train": lambda out: (out / FINISHED).exists(),
    "label": _labels_are_whole,
    "evaluate": lambda out: (out / RESULTS_FILE).exists(),
}

Folder = str | Job
"""Where data are: a folder of the user's, or what a job writes."""


def path_of(folder: Folder) -> str:
    """The path to give to a command."""
    return folder if isinstance(folder, str) else str(folder.out)


def content_of(folder: Folder) -> str:
    """What identifies it: for a job whatever determines its outcome, for a folder of the user its path."""
    return folder if isinstance(folder, str) else folder.name


def jobs_among(folders: list[Folder]) -> tuple[Job, ...]:
    """The jobs that have to be finished before these folders can be read."""
    return tuple(folder for folder in folders if isinstance(folder, Job))


def short_hash(*content: object) -> str:
    """Eight digits for a folder's name."""
    return fingerprint(content)[:8]
