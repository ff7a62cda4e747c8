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
        if wrong := [key for key in value if not re.fullmatch(r"[\w./-]+", str(key), re.ASCII)]:
            raise UserError(f"Expected names of letters, digits, _, -, . and / in a mapping, but got {wrong[0]!r}.")
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
    if not re.fullmatch(r"[\w./*@+-]+", text, re.ASCII):
        return False
    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text
    except HydraException:
        return False
