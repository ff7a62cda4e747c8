"""`depth-anything train experiment=...`: any stage of training, from a config to a run folder.

The run folder holds everything: `config.yaml` (resolved), `provenance.json`, `metrics.jsonl`, `checkpoints/`,
`previews/`, with `validation=` also `validation/` and `best/`, and, when the last step is done, `model/`. The same
command continues an interrupted run.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from depth_anything_train.callbacks.checkpoint import CheckpointEvery
from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, checkpoints, newest_sound_checkpoint
from depth_anything_train.callbacks.finite_guard import FiniteGuard
from depth_anything_train.callbacks.interruption import Interruption, Stopped
from depth_anything_train.callbacks.metrics_log import MetricsLog, read_metrics
from depth_anything_train.callbacks.preview import Preview
from depth_anything_train.callbacks.progress import StepProgress
from depth_anything_train.callbacks.random_state import RandomState
from depth_anything_train.callbacks.speed import Speed
from depth_anything_train.callbacks.wandb_mirror import WandbMirror
from depth_anything_train.callbacks.watch import Watch
from depth_anything_train.command import build, command
from depth_anything_train.devices import is_lost_rank, register_strategies
from depth_anything_train.inference.labelled import open_data
from depth_anything_train.inference.validation import Validation
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
from depth_anything_train.tasks.base import DepthTask, Task

FINISHED = "finished.json"
"""In a run folder: the last step is done and the model is written."""

# What may differ when a run continues: none of it changes a number by more than rounding.
MAY_CHANGE = (
    *("out", "logger", "checkpoint", "preview", "trainer", "log_every_n_steps", "max_per_device", "timeout_s"),
    *("validation", "validate", "workers", "data.cache_mb", "data.max_bad_share"),
)


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
    with Interruption(cfg.timeout_s) as interruption:
        try:
            _train(cfg, run, interruption)
        except RuntimeError as error:
            if not is_lost_rank(error):
                raise
            reason = re.sub(r"^\[[^]]*\] ", "", str(error)).partition(". ")[0]  # without a file of gloo's
            raise UserError(
                f"Another process of this run died, or was silent for timeout_s={cfg.timeout_s} seconds ({reason}). "
                "Look at its last message; the newest checkpoint holds, and the same command continues from it."
            ) from None
    return run


def _train(cfg: DictConfig, run: Path, interruption: Interruption) -> None:
    pl.seed_everything(cfg.seed, verbose=False)
    model = build(cfg.model)
    start = build(cfg.initialise, model=model)
    task = build(cfg.task, model=model, optim=build(cfg.optim), steps=cfg.steps)
    data = build(cfg.data)
    origin = {**start, "data": data.record(), "run": read_json(run / "provenance.json")}
    size = cfg.size if isinstance(cfg.size, int) else list(cfg.size)
    task.record = {"size": size, "experiment": cfg.name, "steps": cfg.steps, **origin}

    log = MetricsLog(run)
    newest = newest_sound_checkpoint(run / "checkpoints")
    log.continue_from(_step_of(newest))
    validation = _validation(cfg, run, task)
    for judging in validation:
        judging.continue_from(_step_of(newest))
    mirrors = [build(node, folder=run) for node in cfg.logger.values()]
    disk = SoundCheckpointIO(keep=cfg.checkpoint.keep, background=cfg.checkpoint.background)
    # Judged before the checkpoint of the same step: a run that continues there has its row.
    callbacks = [*validation, *_callbacks(cfg, run, interruption)]
    trainer = _trainer(cfg, logger=[log, *mirrors], callbacks=callbacks, plugins=[disk, *_slurm()])
    trainer.accumulate_grad_batches = data.parts(trainer.world_size)
    if isinstance(trainer.val_check_interval, int):  # Lightning counts batches there
        trainer.val_check_interval *= trainer.accumulate_grad_batches
    # Lightning's handlers would talk to the other ranks from inside a handler.
    trainer._signal_connector.register_signal_handlers = interruption.listen  # type: ignore[method-assign]
    for mirror in mirrors:
        if isinstance(mirror, WandbMirror):
            mirror.log_table("data", data.record())
    try:
        trainer.fit(task, datamodule=data, ckpt_path=newest, weights_only=True)
    except Stopped:
        if trainer.is_global_zero:
            console.print(f"{run} was asked to stop and is saved; the same command continues.", soft_wrap=True)
        raise SystemExit(_status(trainer)) from None
    finally:
        disk.wait()
    data.close()

    task.gather()
    if trainer.is_global_zero:
        log.finalize("success")
        task.export(run / "model")
        write_json(run / FINISHED, {"steps": cfg.steps})
    trainer.strategy.barrier()


def _callbacks(cfg: DictConfig, run: Path, interruption: Interruption) -> list[pl.Callback]:
    every = cfg.checkpoint.every_n_steps
    return [
        FiniteGuard(folder=run / "bad_batches", **cfg.guard),
        Watch(),
        Speed(peak_flops=_peak(cfg)),
        Preview(run / "previews", **cfg.preview),
        StepProgress(run.name),
        RandomState(),
        CheckpointEvery(run / "checkpoints", every_n_steps=every, interruption=interruption),  # last: it may leave
    ]


def run_key(cfg: DictConfig) -> str:
    """A hash of everything in a training's config that decides its numbers."""
    decisive = cfg.copy()
    for name in MAY_CHANGE:
        OmegaConf.update(decisive, name, None)  # before resolving: data.workers, for one, is ${workers}
    return fingerprint(OmegaConf.to_container(decisive, resolve=True))


def _validation(cfg: DictConfig, run: Path, task: Task) -> list[Validation]:
    """What judges the model while it learns, if there are folders to judge it on.

    Raises:
        UserError: one of them is trained on, or the model predicts no depth.
    """
    if not cfg.validation:
        return []
    if not isinstance(task, DepthTask):
        raise UserError(f"Expected no validation folders, because {cfg.name} trains no depth model.")
    data = open_data(OmegaConf.to_container(cfg.validation))
    trained = {Path(folder).resolve() for folder in (*cfg.labelled, *cfg.unlabelled)}
    if shared := [name for name, folder in data.items() if Path(str(folder.path)).resolve() in trained]:
        raise UserError(f"{shared[0]} stands under validation and is trained on; hold some of its images out.")
    settings = {name: value for name, value in cfg.validate.items() if name != "protocol"}
    return [Validation(run, data=data, protocol=build(cfg.validate.protocol), size=task.record["size"], **settings)]


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
    register_strategies(cfg.timeout_s)
    node = OmegaConf.merge(cfg.trainer, {"precision": choose_precision(cfg.trainer.precision)})
    try:
        return build(node, **arguments)
    except MisconfigurationException as error:
        raise UserError(f"The settings under trainer do not fit this machine: {error}") from None


def _slurm() -> list[SLURMEnvironment]:
    """In a SLURM job Lightning would save inside a signal handler and requeue; here the job's script requeues."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _status(trainer: pl.Trainer) -> int:
    """What a rank leaves with when all were asked to stop.

    The launcher that Lightning is without torchrun or SLURM kills its own process if another one leaves with anything
    but 0; its own status is what the user sees.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    return 0 if launched else RUN_AGAIN


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.stem.removeprefix("step-")) if checkpoint else 0
