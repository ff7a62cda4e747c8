"""The run's own record of numbers: one JSON object a line. wandb and the like only mirror it.

What is not finite stands there as Python's json writes and reads it, NaN and Infinity.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from depth_anything_train.files import csv_text, write_bytes
from depth_anything_train.run_folder import MACHINE_METRICS, METRICS, read_lines, read_metrics

MACHINE = "machine/"
"""Prefix of metrics that describe the machine, not the method; they have a file of their own."""


class MetricsLog(Logger):
    """Append metrics to `metrics.jsonl`, those of the machine to `machine.jsonl`; `finalize` writes `metrics.csv` too.

    A step may have several lines, each with numbers of its own, such as those of a validation behind it; they are one
    row for who reads them. A continued run first drops the lines behind the step it continues from, and writes no
    number twice, so that an interruption leaves no trace.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path, self.machine = Path(folder) / METRICS, Path(folder) / MACHINE_METRICS
        self.last = -1  # step of the newest row
        self._written: set[str] = set()  # names of its numbers

    @property
    def name(self) -> str:
        """What Lightning calls this logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one log a run folder."""
        return ""

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keep the sound lines up to and including `step`."""
        kept = {path: [line for line in read_lines(path) if line["step"] <= step] for path in (self.machine, self.path)}
        for path, lines in kept.items():
            write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self.last = max((line["step"] for lines in kept.values() for line in lines), default=-1)
        self._written = {
            name for lines in kept.values() for line in lines if line["step"] == self.last for name in line
        }

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append what the row of the step has not yet. Steps count from 1: row n describes the n-th step.

        Row 0 describes what a run starts from.
        """
        number = (step or 0) + 1
        written = self._written if number == self.last else set()
        numbers = {name: value for name, value in metrics.items() if name not in {"epoch", "step", *written}}
        if not numbers or number < self.last:
            return
        self.last, self._written = number, {*written, *numbers}
        of_machine = {name: value for name, value in numbers.items() if name.startswith(MACHINE)}
        _append(self.machine, number, of_machine)
        _append(self.path, number, {name: value for name, value in numbers.items() if name not in of_machine})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing to do: the run folder holds the whole config."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the table form."""
        rows = read_metrics(self.path)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_bytes(self.path.with_suffix(".csv"), csv_text(columns, rows).encode())


def _append(path: Path, step: int, numbers: dict[str, float]) -> None:
    if numbers:
        with open(path, "a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
