"""Weights & Biases as a mirror of the run's own record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from depth_anything_train.runtime import fingerprint, write_bytes


def wandb_mirror(*, folder: Path, project: str, name: str, offline: bool | None = None, **options: Any) -> WandbLogger:
    """A logger whose run id lives in the run folder, so that a continued run is the same run.

    Args:
        folder: the run folder; the id is kept in `wandb_id`.
        project: project name.
        name: shown name of the run.
        offline: None means offline exactly when no API key is known (`WANDB_API_KEY` or a login).
        options: passed on to `WandbLogger`.
    """
    import wandb

    mark = Path(folder) / "wandb_id"
    if not mark.exists():
        write_bytes(mark, fingerprint([str(folder.resolve()), os.urandom(8).hex()]).encode())
    if offline is None:
        offline = wandb.api.api_key is None
    return WandbLogger(
        project=project,
        name=name,
        id=mark.read_text(),
        save_dir=str(folder),
        offline=offline,
        resume=None if offline else "allow",
        **options,
    )
