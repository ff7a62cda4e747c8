"""How `key=value` is written so that Hydra reads the value that was meant, and a shell leaves it as it is."""

from __future__ import annotations

import re
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from depth_anything_train.runtime import UserError

SPECIAL = '"$`\\!'
"""What a shell changes inside double quotes."""


def as_override(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it; text is quoted where it has to be (folders may hold spaces and commas).

    Raises:
        UserError: a name in a mapping that Hydra cannot read.
    """
    return f"{key}={_as_text(value)}"


def in_shell(override: str) -> str:
    """The override in quotes for a command line."""
    return shlex.quote(override) if set(override) & set(SPECIAL) else f'"{override}"'


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        if wrong := [key for key in value if _read(f"x={{{key}:1}}") != {key: 1}]:
            raise UserError(
                f"Expected names in a mapping that a command line can hold, but got {wrong[0]!r}, which Hydra reads "
                "otherwise; take letters, digits and _."
            )
        return "{" + ",".join(f"{k}:{_as_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_as_text, value)) + "]"
    if isinstance(value, str) and not _stays_text(value):
        # Hydra takes a backslash as it is, except before the quote.
        escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
        return f"'{escaped}'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _stays_text(text: str) -> bool:
    """Whether Hydra reads the same text without quotes: no number, not `null`, and ASCII, as its grammar wants."""
    return re.fullmatch(r"[\w./*@+-]+", text, re.ASCII) is not None and _read(f"key={text}") == text


def _read(override: str) -> Any:
    """The value that Hydra reads; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None
