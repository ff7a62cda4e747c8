"""`depth-anything train experiment=...`: any stage of training, from a config to a run folder.

The run folder holds everything: `config.yaml` (resolved), `provenance.json`, `metrics.jsonl`, `checkpoints/`,
`previews/` and, when the last step is done, `model/`. The same command continues an interrupted run.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from depth_anything_train.callbacks.checkpoint import (
    CheckpointEvery,
    SoundCheckpointIO,
    checkpoints,
    newest_sound_checkpoint,
)
from depth_anything_train.callbacks.finite_guard import FiniteGuard
from depth_anything_train.callbacks.interruption import Interruption
from depth_anything_train.callbacks.metrics_log import MetricsLog, read_metrics
from depth_anything_train.callbacks.preview import Preview
from depth_anything_train.callbacks.progress import StepProgress
from depth_anything_train.callbacks.speed import Speed
from depth_anything_train.callbacks.wandb_mirror import WandbMirror
from depth_anything_train.callbacks.watch import Watch
from depth_anything_train.command import build, command
from depth_anything_train.models.flops import peak_flops
from depth_anything_train.runtime import (
    RUN_AGAIN,
    UserError,
    console,
    fingerprint,
    provenance,
    read_json,
    write_bytes,
    write_json,
)

FINISHED = "finished.json"
"""In a run folder: the last step is done and the model is written."""

# What may differ when a run continues: none of it changes a number.
MAY_CHANGE = ("out", "workers", "logger", "checkpoint", "preview", "trainer", "log_every_n_steps")


@command("train")
def main(cfg: DictConfig) -> None:
    """Train what the config describes."""
    train(cfg)


def train(cfg: DictConfig) -> Path:
    """Train, or continue to train, and return the run folder.

    Raises:
        UserError: the run folder belongs to another configuration, or the data or weights do not fit.
        SystemExit: with `RUN_AGAIN` after SIGTERM, SIGUSR1 or SIGINT, once the state is saved.
    """
    run = Path(cfg.out)
    open_run(run, cfg)
    if (run / FINISHED).exists():
        console.print(f"{run} is finished: its model is in {run / 'model'}.")
        return run
    with Interruption() as interruption:
        _train(cfg, run, interruption)
    return run


def _train(cfg: DictConfig, run: Path, interruption: Interruption) -> None:
    pl.seed_everything(cfg.seed, verbose=False)
    model = build(cfg.model)
    build(cfg.initialise, model=model)
    task = build(cfg.task, model=model, optim=build(cfg.optim), steps=cfg.steps)
    data = build(cfg.data)
    origin = {"encoder": cfg.encoder, "data": data.record(), "run": read_json(run / "provenance.json")}
    task.record = {"size": cfg.size, "experiment": cfg.name, "steps": cfg.steps, **origin}

    log = MetricsLog(run)
    newest = newest_sound_checkpoint(run / "checkpoints")
    log.continue_from(_step_of(newest))
    callbacks = [
        FiniteGuard(folder=run / "bad_batches", **cfg.guard),
        Watch(),
        Speed(peak_flops=_peak(cfg)),
        CheckpointEvery(run / "checkpoints", interruption=interruption, **cfg.checkpoint),
        Preview(run / "previews", **cfg.preview),
        StepProgress(run.name),
    ]
    mirrors = [build(node, folder=run) for node in cfg.logger.values()]
    trainer = _trainer(cfg, logger=[log, *mirrors], callbacks=callbacks)
    for mirror in mirrors:
        if isinstance(mirror, WandbMirror):
            mirror.log_table("data", data.record())
    trainer.fit(task, datamodule=data, ckpt_path=newest, weights_only=True)
    if interruption.agreed and trainer.global_step < cfg.steps:
        console.print(
            f"{run} was asked to stop and is saved at step {trainer.global_step}; the same command continues."
        )
        raise SystemExit(RUN_AGAIN)
    data.close()

    if trainer.is_global_zero:
        log.finalize("success")
        task.export(run / "model")
        write_json(run / FINISHED, {"steps": cfg.steps})
    trainer.strategy.barrier()


def run_key(cfg: DictConfig) -> str:
    """A hash of everything in a training's config that decides its numbers."""
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return fingerprint({name: value for name, value in resolved.items() if name not in MAY_CHANGE})


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


def choose_precision(wanted: str) -> str:
    """Resolve `auto`: bf16 autocast where the hardware multiplies bf16, else float32."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu.get_capabilities().get("avx512_bf16") else "32-true"


def _peak(cfg: DictConfig) -> float | None:
    """What the device could do, where that is known and the run computes in 16 bits."""
    if not torch.cuda.is_available() or choose_precision(cfg.trainer.precision).startswith("32"):
        return None
    return peak_flops(torch.cuda.get_device_name())


def quiet_lightning() -> None:
    """Leave out what Lightning says about itself and about machines in general."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # Lightning's own
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # it is on every login node


def _trainer(cfg: DictConfig, **arguments: Any) -> pl.Trainer:
    quiet_lightning()
    # `deterministic` would fill every new tensor first, against reads of memory that nothing wrote: 7 % of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    node = OmegaConf.merge(cfg.trainer, {"precision": choose_precision(cfg.trainer.precision)})
    try:
        return build(node, plugins=_plugins(), **arguments)
    except MisconfigurationException as error:
        raise UserError(f"The settings under trainer do not fit this machine: {error}") from None


def _plugins() -> list[Any]:
    """In a SLURM job Lightning would save inside a signal handler and requeue; here the job's script requeues."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [SoundCheckpointIO(), *slurm]


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.stem.removeprefix("step-")) if checkpoint else 0
