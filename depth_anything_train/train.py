"""`depth-anything train experiment=...`: any stage of training, from a config to a run folder.

The run folder holds everything: `config.yaml` (resolved), `provenance.json`, `metrics.jsonl`, `checkpoints/`,
`previews/`, with `validation=` also `validation/` and `best/`, and, when the last step is done, `model/`. The same
command continues an interrupted run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from depth_anything_train.building import build
from depth_anything_train.callbacks.checkpoint import CheckpointEvery
from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO, newest_sound_checkpoint
from depth_anything_train.callbacks.finite_guard import FiniteGuard
from depth_anything_train.callbacks.interruption import Interruption, Stopped
from depth_anything_train.callbacks.metrics_log import MetricsLog
from depth_anything_train.callbacks.preview import Preview
from depth_anything_train.callbacks.progress import StepProgress
from depth_anything_train.callbacks.random_state import RandomState
from depth_anything_train.callbacks.speed import Speed
from depth_anything_train.callbacks.wandb_mirror import WandbMirror
from depth_anything_train.callbacks.watch import Watch
from depth_anything_train.command import command
from depth_anything_train.composition import plain
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.sources import Source
from depth_anything_train.data.test_sets import open_data
from depth_anything_train.devices import is_lost_rank
from depth_anything_train.evaluation.validation import Validation
from depth_anything_train.files import write_json
from depth_anything_train.internals import leave_signals_to
from depth_anything_train.locks import only_run_in
from depth_anything_train.models.compilation import compile_parts, compile_problem
from depth_anything_train.run_folder import (
    FINISHED,
    METRICS,
    check_folders,
    check_samples,
    open_run,
    read_metrics,
    read_provenance,
    samples_moved,
)
from depth_anything_train.runtime import UserError, console, is_first_process
from depth_anything_train.signals import children_die_with_this
from depth_anything_train.tasks.base import Task
from depth_anything_train.trainer import build_trainer, device_peak, stopped_status


def less_memory(cfg: DictConfig) -> str:
    """What to change when the device runs out of memory, and whether the same run may continue."""
    recompute = "recompute more (model.activation_checkpointing=full)"
    if hydra.utils.get_class(cfg.task._target_).couples_images:  # type: ignore[attr-defined]
        return (
            f"{recompute}, with which the same command continues, or let it take fewer images at a time "
            "(max_per_device=, more devices) in another out=, because the loss is over these images together"
        )
    return (
        f"let it take fewer images at a time (max_per_device=), {recompute} or share out the weights among several "
        "(trainer=fsdp); the same command with it continues"
    )


@command("train", short_of_memory=less_memory)
def main(cfg: DictConfig) -> None:
    """Train what the config describes."""
    check_folders(cfg)
    train(cfg)


def train(cfg: DictConfig) -> Path:
    """Train, or continue to train, and return the run folder.

    Another training in the same folder is waited for: a job that was put back into the queue may begin while the one
    before it still writes.

    Raises:
        UserError: the run folder belongs to another configuration, or the data or weights do not fit.
        SystemExit: with `RUN_AGAIN` after SIGTERM, SIGUSR1 or SIGINT, once the state is saved.
    """
    run = Path(cfg.out)
    # Nobody works in a finished run, and the same command changes nothing there.
    with nullcontext() if _is_finished(run) else only_run_in(run, timeout_s=cfg.timeout_s):
        open_run(run, cfg)
        finished = _is_finished(run)
        if not finished or samples_moved(run, cfg):  # of a finished run they may be gone
            data = build(cfg.data)
            check_samples(run, cfg, data.content())
        if finished:
            unjudged = cfg.validation and not (run / "validation" / METRICS).exists()
            note = "; validation= comes too late, judge that model with `evaluate` or `segment`" if unjudged else ""
            console.print(f"{run} is finished: its model is in {run / 'model'}{note}.", soft_wrap=True)
            return run
        with Interruption(cfg.timeout_s) as interruption:
            try:
                _train(cfg, run, data, interruption)
            except RuntimeError as error:
                if sentence := _explained(error, cfg):
                    raise UserError(sentence) from None
                raise
    return run


def _is_finished(run: Path) -> bool:
    """Whether nothing is left to do; a model that was deleted is written again from the last checkpoint."""
    return (run / FINISHED).exists() and (run / "model").is_dir()


def _explained(error: RuntimeError, cfg: DictConfig) -> str | None:
    """What happened, where a user can do something about it."""
    if problem := compile_problem(error):
        return problem
    if not is_lost_rank(error):
        return None
    reason = re.sub(r"^\[[^]]*\] ", "", str(error)).partition(". ")[0]  # without a file of gloo's
    return (
        f"Another process of this run died, or was silent for timeout_s={cfg.timeout_s} seconds ({reason}). "
        "Look at its last message; the newest checkpoint holds, and the same command continues from it."
    )


def _train(cfg: DictConfig, run: Path, data: ShardDataModule, interruption: Interruption) -> None:
    pl.seed_everything(cfg.seed, verbose=False)
    model = build(cfg.model)
    start = build(cfg.initialise, model=model)
    task = build(cfg.task, model=model, optim=build(cfg.optim), steps=cfg.steps)
    if cfg.compile:
        compile_parts(task)

    log = MetricsLog(run)
    newest = newest_sound_checkpoint(run / "checkpoints")
    if newest is None and is_first_process() and (rows := read_metrics(run / METRICS)):
        sentence = f"{run} recorded {rows[-1]['step']} steps but holds no whole checkpoint; it begins again."
        console.print(sentence, soft_wrap=True)
    log.continue_from(_step_of(newest))
    validation = _validation(cfg, run, task, data.sources.values(), interruption)
    for judging in validation:
        judging.continue_from(_step_of(newest))
    mirrors = [build(node, folder=run) for node in cfg.logger.values()]
    disk = SoundCheckpointIO(keep=cfg.checkpoint.keep, background=cfg.checkpoint.background)
    # Judged before the checkpoint of the same step, which is then the one to leave at.
    callbacks = [*validation, *_callbacks(cfg, run, interruption)]
    trainer = build_trainer(cfg, logger=[log, *mirrors], callbacks=callbacks, plugins=[disk])
    task.record = {
        "size": plain(cfg.size),
        "experiment": cfg.name,
        "steps": cfg.steps,
        **start,
        "data": data.record(),
        "run": read_provenance(run),
        "precision": trainer.precision,
    }
    trainer.accumulate_grad_batches = data.parts(trainer.world_size)
    leave_signals_to(interruption.listen, trainer)
    for mirror in mirrors:
        if isinstance(mirror, WandbMirror):
            mirror.log_table("data", data.record())
    try:
        with children_die_with_this():  # ranks that it starts would wait for a lost one, on the GPU, for timeout_s
            trainer.fit(task, datamodule=data, ckpt_path=newest, weights_only=True)
    except Stopped:
        if trainer.is_global_zero:
            console.print(f"{run} was asked to stop and is saved; the same command continues.", soft_wrap=True)
        raise SystemExit(stopped_status(trainer)) from None
    finally:
        disk.wait()
    data.close()

    task.gather()
    if trainer.is_global_zero:
        task.export(run / "model")
        write_json(run / FINISHED, {"steps": cfg.steps})
    trainer.strategy.barrier()


def _callbacks(cfg: DictConfig, run: Path, interruption: Interruption) -> list[pl.Callback]:
    every = cfg.checkpoint.every_n_steps
    return [
        FiniteGuard(folder=run / "bad_batches", **cfg.guard),
        Watch(),
        Speed(peak_flops=device_peak(cfg)),
        Preview(run / "previews", **cfg.preview),
        StepProgress(run.name),
        RandomState(),
        CheckpointEvery(run / "checkpoints", every_n_steps=every, interruption=interruption),  # last: it may leave
    ]


def _validation(
    cfg: DictConfig, run: Path, task: Task, sources: Iterable[Source], interruption: Interruption
) -> list[Validation]:
    """What judges the model while it learns, if there are folders to judge it on.

    Raises:
        UserError: one of them is trained on or of another kind, or the model cannot be judged.
    """
    if not cfg.validation:
        return []
    if task.validated_on is None:
        raise UserError(
            f"Expected no validation folders, because {cfg.name} trains nothing that can be judged on them."
        )
    data = open_data(OmegaConf.to_container(cfg.validation), kind=task.validated_on)
    # Images of pseudo labels count too: they are elsewhere than their labels, and may be labelled themselves.
    folders = (folder for source in sources for folder in (*source.folders, *source.images))
    trained = {Path(str(folder.path)).resolve() for folder in folders}
    if shared := [name for name, folder in data.items() if Path(str(folder.path)).resolve() in trained]:
        raise UserError(f"{shared[0]} stands under validation and is trained on; hold some of its images out.")
    return [build(cfg.validate, run=run, interruption=interruption, data=data, size=plain(cfg.size))]


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.stem.removeprefix("step-")) if checkpoint else 0
