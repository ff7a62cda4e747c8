"""The folder of a training run: which configuration it belongs to, its numbers, and whether it is finished."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.runtime import UserError, fingerprint, provenance, read_json, write_bytes, write_json

FINISHED = "finished.json"
"""In a run folder: the last step is done and the model is written."""

CHECKPOINT = re.compile(r"step-(\d{8})\.ckpt")

# What may differ when a run continues: none of it changes a number by more than rounding, other devices or parts of a
# batch included; a task whose loss they do change refuses them itself (`Task.couples_images`).
MAY_CHANGE = (
    *("out", "logger", "checkpoint", "preview", "log_every_n_steps", "timeout_s"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic", "benchmark")),
    *("trainer.log_every_n_steps", "compile", "max_per_device", "model.activation_checkpointing", "model.attention"),
    *("validation", "validate", "workers", "data.cache_mb", "data.max_bad_share"),
)


def run_key(cfg: DictConfig) -> str:
    """A hash of everything in a training's config that decides its numbers."""
    return fingerprint(OmegaConf.to_container(_decisive(cfg), resolve=True))


def _decisive(cfg: DictConfig) -> DictConfig:
    decisive = cfg.copy()
    for name in MAY_CHANGE:
        # Before resolving, because data.workers, for one, is ${workers}; added, because not all trainers name all keys.
        OmegaConf.update(decisive, name, None, force_add=True)
    return decisive


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
                f"{run} holds a run of another configuration{_difference(run / 'config.yaml', cfg)}; choose another "
                "out= or delete it."
            )
        return
    # A run that was refused before its first step, for a wrong value say, leaves its place to the next.
    write_bytes(run / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
    write_json(mark, {**provenance(), "key": key})


def _difference(there: Path, cfg: DictConfig) -> str:
    """The keys that decide and differ from a config that was written, as part of a sentence; nothing if none does."""
    ours = _leaves(_decisive(cfg))
    written = OmegaConf.create(there.read_text()) if there.exists() else cfg
    theirs = _leaves(_decisive(written)) if isinstance(written, DictConfig) else ours
    names = [name for name in ours if ours[name] is not None]  # None: it only repeats another key
    names += [name for name in theirs if not any(f"{name}.".startswith(f"{known}.") for known in ours)]
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    told = [f"{name} was {theirs.get(name, 'not there')}, is {ours.get(name, 'not there')}" for name in differing[:4]]
    told += [f"{len(differing) - 4} more"] * (len(differing) > 4)
    return f" ({'; '.join(told)})" if told else ""


def _leaves(node: Any, prefix: str = "") -> dict[str, str | None]:
    """Every value of a config as text, by its full name; None where it is another key's."""
    leaves: dict[str, str | None] = {}
    for name in node:
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            leaves[f"{prefix}{name}"] = None
        elif isinstance(node[name], DictConfig):
            leaves |= _leaves(node[name], f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = str(node[name])
    return leaves


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint files of a folder, oldest first, sound or not."""
    return sorted(path for path in Path(folder).glob("step-*.ckpt") if CHECKPOINT.fullmatch(path.name))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, one a step; a last line torn by a kill is left out, a missing file has none."""
    rows: dict[int, dict[str, Any]] = {}
    for line in read_lines(path):
        rows.setdefault(line["step"], {}).update(line)
    return [*rows.values()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as they were written, up to one torn by a kill; a missing file has none."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _has_steps(run: Path) -> bool:
    written = checkpoints(run / "checkpoints"), read_metrics(run / "metrics.jsonl")
    return any(written) or (run / FINISHED).exists()
