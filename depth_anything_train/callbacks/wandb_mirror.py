"""Weights & Biases as a mirror of the run's own record."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger

from depth_anything_train.runtime import fingerprint, write_bytes


def wandb_mirror(*, folder: Path, project: str, name: str, offline: bool | None = None, **options: Any) -> WandbLogger:
    """A logger whose run id lives in the run folder, so that a continued run is the same run.

    Args:
        folder: the run folder; the id is kept in `wandb_id`.
        project: project name.
        name: shown name of the run.
        offline: None means offline exactly when no API key is known (`WANDB_API_KEY` or an earlier login).
        options: passed on to `WandbLogger`.
    """
    mark = Path(folder) / "wandb_id"
    if not mark.exists():
        write_bytes(mark, fingerprint([str(folder.resolve()), os.urandom(8).hex()]).encode())
    if offline is None:
        offline = os.environ.get("WANDB_MODE") == "offline" or not _key_is_known()
    return WandbLogger(
        project=project,
        name=name,
        id=mark.read_text(),
        save_dir=str(folder),
        offline=offline,
        resume=None if offline else "allow",
        **options,
    )


def _key_is_known() -> bool:
    """Whether `wandb login` was run, or the environment holds a key; asks nobody."""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    return "WANDB_API_KEY" in os.environ or (path.is_file() and netrc.netrc(path).authenticators(host) is not None)
