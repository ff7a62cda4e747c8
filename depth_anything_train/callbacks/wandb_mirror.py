"""Weights & Biases as a mirror of the run's own record: what happens to it never stops a training."""

from __future__ import annotations

import netrc
import os
import uuid
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from depth_anything_train.files import read_json, write_bytes
from depth_anything_train.run_folder import CONFIG, PROVENANCE
from depth_anything_train.runtime import console, fingerprint


class WandbMirror(Logger):
    """A logger whose run id lives in the run folder, so that a continued run is the same run.

    A server that does not answer in time makes the run an offline one; any other failure ends the mirror. Either is
    said once, and `metrics.jsonl` holds the numbers in any case.

    Args:
        folder: the run folder; the id is kept in `wandb_id`, and what wandb shows as config comes from there.
        project: project name.
        name: shown name of the run.
        offline: None means offline exactly when no API key is known (`WANDB_API_KEY` or an earlier login).
        timeout_s: longest time that start and end may wait for the server, each.
        options: passed on to `wandb.init`.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        project: str,
        name: str,
        offline: bool | None = None,
        timeout_s: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.folder, self.timeout_s, self.offline = Path(folder), timeout_s, offline
        self.options = {"project": project, "name": name, "dir": str(folder), **options}
        self.run: Any = None  # of wandb
        self.failed = False

    @property
    def name(self) -> str:
        """What Lightning calls this logger."""
        return "wandb"

    @property
    def version(self) -> str:
        """The run's id, the same after every interruption."""
        mark = self.folder / "wandb_id"
        if not mark.exists():
            write_bytes(mark, fingerprint(uuid.uuid4().hex).encode())
        return mark.read_text()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing to do: wandb is told the run folder's config at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Mirror one row, under the number that it has in the run's own record."""
        self._mirror(lambda run: run.log({**metrics, "step": (step or 0) + 1}))

    @rank_zero_only
    def log_image(self, key: str, picture: NDArray[np.uint8], step: int) -> None:
        """Mirror a picture (H, W, 3) that was drawn after `step` steps."""
        import wandb

        self._mirror(lambda run: run.log({key: wandb.Image(picture), "step": step}))

    @rank_zero_only
    def log_table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """Mirror a table of rows; a column that a row lacks is empty there."""
        import wandb

        columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
        data = [["" if row.get(column) is None else str(row[column]) for column in columns] for row in rows]
        self._mirror(lambda run: run.log({key: wandb.Table(columns=columns, data=data)}))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run; what the server has not taken by then stays on disk for `wandb sync`."""
        if self.run is not None:
            self._mirror(lambda run: run.finish(exit_code=0 if status == "success" else 1))
            self.run = None

    def _mirror(self, act: Callable[[Any], None]) -> None:
        if self.failed:
            return
        try:
            if self.run is None:
                self.run = self._start()
            act(self.run)
        except Exception as error:  # whatever it is: a mirror is not worth a training
            self.failed = True
            console.print(f"wandb failed and is left out from here on: {_first_line(error)}", soft_wrap=True)

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")  # before the import: what there is to say is said here
        import wandb

        if self.offline is None:
            self.offline = os.environ.get("WANDB_MODE") == "offline" or not _key_is_known()
        if not self.offline:
            try:
                return self._init("online")
            except Exception as error:  # wandb raises many kinds
                wandb.teardown()  # its service holds the run's id
                later = f"`wandb sync {self.folder / 'wandb'}/offline-*` sends it later"
                console.print(f"wandb goes on offline, {later}: {_first_line(error)}", soft_wrap=True)
        return self._init("offline")

    def _init(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            init_timeout=self.timeout_s,
            login_timeout=self.timeout_s,
            finish_timeout=self.timeout_s,
            silent=True,
            console="off",  # what the program prints stays as it is
        )
        run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            id=self.version,
            resume="allow" if mode == "online" else None,
            config=_config(self.folder),
            settings=settings,
            **self.options,
        )
        run.define_metric("*", step_metric="step")
        return run


def _config(folder: Path) -> dict[str, Any]:
    """The run's resolved config, and where it comes from."""
    path, mark = folder / CONFIG, folder / PROVENANCE
    config: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    return {**config, "provenance": read_json(mark)} if mark.exists() else config


def _key_is_known() -> bool:
    """Whether `wandb login` was run, or the environment holds a key; asks nobody."""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    return "WANDB_API_KEY" in os.environ or (path.is_file() and netrc.netrc(path).authenticators(host) is not None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
