"""The folder of a training run: which configuration it belongs to, its numbers, and whether it is finished."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from depth_anything_train.files import read_json, write_bytes, write_json
from depth_anything_train.runtime import UserError, fingerprint, provenance

FINISHED = "finished.json"
"""In a run folder: the last step is done and the model is written."""

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
"""In a run folder: the resolved config, and where the run comes from, with hashes of config and samples."""

METRICS, MACHINE_METRICS = "metrics.jsonl", "machine.jsonl"
"""In a run folder: the record of numbers, a line a step, and those of the machine."""

CHECKPOINT = re.compile(r"step-(\d{8})\.ckpt")

# What may differ when a run continues: none of it changes a number by more than rounding, other devices or parts of a
# batch included; a task whose loss they do change refuses them itself (`Task.couples_images`).
MAY_CHANGE = (
    *("out", "logger", "checkpoint", "preview", "log_every_n_steps", "timeout_s"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic", "benchmark")),
    *("trainer.log_every_n_steps", "compile", "max_per_device", "model.activation_checkpointing", "model.attention"),
    *("validation", "validate", "workers", "data.cache_mb", "data.max_bad_share"),
)


PASSING = (METRICS, MACHINE_METRICS, "metrics.csv", "wandb_id", "validation", "best")
"""Files left by a run that stopped before its first step; deleted, so that the next run does not continue them."""


def run_key(cfg: DictConfig) -> str:
    """A hash of everything in a training's config that decides its numbers, paths of samples included."""
    return fingerprint(OmegaConf.to_container(_decisive(cfg), resolve=True))


def _decisive(cfg: DictConfig, also_without: Iterable[str] = ()) -> DictConfig:
    decisive = cfg.copy()
    for name in (*MAY_CHANGE, *also_without):
        # Before resolving, because data.workers, for one, is ${workers}; added, because not all trainers name all keys.
        OmegaConf.update(decisive, name, None, force_add=True)
    return decisive


def _sample_paths(cfg: DictConfig) -> dict[str, str]:
    """Stream -> the setting that says where its samples lie: `labelled`, where the source takes that over."""
    sources: Any = OmegaConf.to_container(cfg.data).get("sources") or {}  # type: ignore[union-attr]
    paths = {stream: re.fullmatch(r"\$\{(\w+)\}", str(source.get("folders"))) for stream, source in sources.items()}
    return {stream: name[1] if name else f"data.sources.{stream}.folders" for stream, name in paths.items()}


def check_folders(cfg: DictConfig) -> None:
    """Refuse folders of samples that the experiment does not read.

    Raises:
        UserError: there are some.
    """
    read = list(_sample_paths(cfg).values())
    if unread := [key for key in ("labelled", "unlabelled") if cfg.get(key) and key not in read]:
        known = " and ".join(f"{key}=" for key in read)
        raise UserError(
            f"Expected no {unread[0]}= for {cfg.name}, which reads {known} alone; leave it out, or choose another "
            "experiment."
        )


def open_run(run: Path, cfg: DictConfig) -> None:
    """Make the run folder, or make sure that it belongs to this configuration.

    Paths of samples are no part of it: what decides a training is what lies there, see `check_samples`.

    Raises:
        UserError: it holds a run of another configuration, or steps of an unknown one.
    """
    paths = _sample_paths(cfg)
    elsewhere = [*paths.values(), *(f"data.sources.{stream}.folders" for stream in paths)]
    decisive = _decisive(cfg, elsewhere)
    key = fingerprint(OmegaConf.to_container(decisive, resolve=True))
    mark = run / PROVENANCE
    if mark.exists() and ((before := read_provenance(run)["key"]) == key or _has_steps(run)):
        if before != key:
            raise UserError(
                f"{run} holds a run of another configuration{_difference(run, decisive, elsewhere)}; choose "
                "another out= or delete it."
            )
        return
    if not mark.exists() and _has_steps(run):
        raise UserError(
            f"{mark} is gone, without which nobody knows how {run} was trained so far; put it back, or choose another "
            "out=."
        )
    # A run that ended before its first step, for a wrong value say, leaves its place to the next.
    if mark.exists():  # ranks do this side by side
        for name in PASSING:
            if (run / name).is_dir():
                shutil.rmtree(run / name, ignore_errors=True)
            else:
                (run / name).unlink(missing_ok=True)
    write_bytes(run / CONFIG, OmegaConf.to_yaml(cfg, resolve=True).encode())
    write_json(mark, {**provenance(), "key": key})


def read_provenance(run: Path) -> dict[str, Any]:
    """What a run began with: code, command, versions, and the `key` of its config.

    Raises:
        UserError: it is damaged or gone.
    """
    mend = "put it back from a copy, or choose another out="
    content: dict[str, Any] = read_json(run / PROVENANCE, keys=("key",), mend=mend)
    return content


def samples_moved(run: Path, cfg: DictConfig) -> list[str]:
    """How the paths of samples differ from those that a run began with, one phrase per path."""
    began = _config_of(run)
    pairs = {name: (OmegaConf.select(began, name), OmegaConf.select(cfg, name)) for name in _sample_paths(cfg).values()}
    return [f"{name} was {there}, is {here}" for name, (there, here) in pairs.items() if there != here]


def check_samples(run: Path, cfg: DictConfig, content: Mapping[str, str]) -> None:
    """Make sure that a run continues with the samples that it began with, wherever they are; record them at its start.

    Which sample stands where in its order is a matter of their numbers.

    Args:
        run: its folder, opened.
        cfg: its config.
        content: stream -> a hash of what lies in its folders.

    Raises:
        UserError: the samples are others than those it began with.
    """
    known = read_provenance(run)
    began = known.get("samples", {}) if _has_steps(run) else {}
    if changed := [stream for stream, digest in content.items() if began.get(stream, digest) != digest]:
        moved = samples_moved(run, cfg)
        raise UserError(
            f"The {' and '.join(changed)} samples are not those that {run} began with"
            f"{f' ({_told(moved)})' if moved else ''}: other shards, another list of bad keys or other flags beside "
            "them; put back what was there, or start again in another out=."
        )
    if known.get("samples") != content:
        write_json(run / PROVENANCE, {**known, "samples": dict(content)})


def _config_of(run: Path) -> DictConfig:
    """The config that a run began with.

    Raises:
        UserError: it is damaged, by hand perhaps, or gone.
    """
    with suppress(FileNotFoundError, YAMLError):
        if isinstance(config := OmegaConf.load(run / CONFIG), DictConfig):
            return config
    raise UserError(f"{run / CONFIG}, which says what this run is, is damaged or gone; fix it or choose another out=.")


def _difference(run: Path, decisive: DictConfig, elsewhere: Iterable[str]) -> str:
    """The keys that decide and differ from those that a run began with, as part of a sentence; nothing if none does."""
    ours, theirs = _leaves(decisive), _leaves(_decisive(_config_of(run), elsewhere))
    names = [name for name in ours if ours[name] is not None]  # None: it only repeats another key
    names += [name for name in theirs if not any(f"{name}.".startswith(f"{known}.") for known in ours)]
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    told = [f"{name} was {theirs.get(name, 'not there')}, is {ours.get(name, 'not there')}" for name in differing]
    return f" ({_told(told)})" if told else ""


def _told(phrases: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return "; ".join([*phrases[:4], *([f"{len(phrases) - 4} more"] if len(phrases) > 4 else [])])


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
    """The rows of a metrics.jsonl, one a step, as `read_lines` finds them."""
    rows: dict[int, dict[str, Any]] = {}
    for line in read_lines(path):
        rows.setdefault(line["step"], {}).update(line)
    return [*rows.values()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as they were written, without damaged ones; a missing file has none.

    A kill may tear the last line, and a full or failing disk any.
    """
    lines = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("step"), int):
                lines.append(content)
    return lines


def _has_steps(run: Path) -> bool:
    written = checkpoints(run / "checkpoints"), read_metrics(run / METRICS)
    return any(written) or (run / FINISHED).exists()
