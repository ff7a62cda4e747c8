"""What a check found: one line for a person, one entry for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]

STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Outcome:
    """One check.

    Attributes:
        check: its name.
        status: how it went; one that failed makes the command's exit status 1.
        message: what was found, with figures, and what to do about it.
    """

    check: str
    status: Status
    message: str

    def line(self) -> str:
        """The outcome as it is printed."""
        return f"{self.status:<8} {self.check}: {self.message}"
