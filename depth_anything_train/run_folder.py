"""The folder of a training run: which configuration it belongs to, and whether it is finished."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.callbacks.checkpoint_io import checkpoints
from depth_anything_train.callbacks.metrics_log import read_metrics
from depth_anything_train.runtime import UserError, fingerprint, provenance, read_json, write_bytes, write_json

FINISHED = "finished.json"
"""In a run folder: the last step is done and the model is written."""

# What may differ when a run continues: none of it changes a number by more than rounding.
MAY_CHANGE = (
    *("out", "logger", "checkpoint", "preview", "trainer", "log_every_n_steps", "timeout_s"),
    *("compile", "max_per_device"),
    *("validation", "validate", "workers", "data.cache_mb", "data.max_bad_share"),
)


def run_key(cfg: DictConfig) -> str:
    """A hash of everything in a training's config that decides its numbers."""
    decisive = cfg.copy()
    for name in MAY_CHANGE:
        OmegaConf.update(decisive, name, None)  # before resolving: data.workers, for one, is ${workers}
    return fingerprint(OmegaConf.to_container(decisive, resolve=True))


def open_run(run: Path, cfg: DictConfig) -> None:
    """Make the run folder, or make sure that it belongs to this configuration.

    Raises:
        UserError: it holds a run of another configuration.
    """
    key = run_key(cfg)
    mark = run / "provenance.json"
    if mark.exists() and (read_json(mark, keys=("key",))["key"] == key or _has_steps(run)):
        if read_json(mark)["key"] != key:
            raise UserError(
                f"{run} holds a run of another configuration (see its config.yaml); choose another out= or delete it."
            )
        return
    # A run that was refused before its first step, for a wrong value say, leaves its place to the next.
    write_bytes(run / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
    write_json(mark, {**provenance(), "key": key})


def _has_steps(run: Path) -> bool:
    written = checkpoints(run / "checkpoints"), read_metrics(run / "metrics.jsonl")
    return any(written) or (run / FINISHED).exists()
