"""Models on the Hugging Face hub: what a name looks like, and the files behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from depth_anything_train.runtime import UserError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(source: str | Path) -> bool:
    """Whether it has the form owner/name and is no path: `runs/typo` is meant as a path if there is a folder `runs`."""
    return HUB_NAME.fullmatch(str(source)) is not None and not Path(source).expanduser().parent.is_dir()


def from_hub(name: str, *, files: Sequence[str], what: str, revision: str | None = None) -> Path:
    """The folder with the files of a model on the hub, out of its cache where there is no network.

    Args:
        name: owner/name.
        files: patterns of their names.
        what: a noun for the message, such as `a model`.
        revision: None is the newest.

    Raises:
        UserError: the hub does not have it or cannot be reached, and the cache does not hold it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*files]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(
            f"Expected {what} in a folder {name} or under that name on the Hugging Face hub, but there is no such "
            f"folder and the hub gave: {reason}; check name and connection, or download it and give its folder."
        ) from None
