"""Trainings that are killed or asked to stop at a certain moment, on several ranks, and what must hold all the same.

Every start is a process of its own, forked from a server that has imported torch once. The fault sits inside it, so
that the moment is sure: between two hooks, or when half of a checkpoint is written.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from scenes import SIZE, write_shards

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.labelling.teacher import ModelTeacher
from depth_anything_train import train as program
from depth_anything_train.callbacks import checkpoint_io
from depth_anything_train.composition import compose
from depth_anything_train.data.test_sets import EvenlySpread
from depth_anything_train.runtime import UserError, console
from depth_anything_train.signals import RUN_AGAIN, hold_signals

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [f"depth_anything_train.{name}" for name in ("train", "tasks.student", "tasks.teacher", "data.datamodule")]
    + [f"depth_anything_train.losses.{name}" for name in ("affine_invariant", "feature_alignment", "pseudo_label")]
    + [
        "depth_anything_train.models.encoder_weights",
        "depth_anything_train.optim.adamw",
        "albumentations",
        "data_engine.labelling.labeller",
        "torch._inductor.compile_fx",  # compile=true loads it
    ]
)
MOMENTS = ("start-up", "step", "validation", "checkpoint")


@dataclass(eq=False)  # Lightning writes to it
class Fault(pl.Callback):
    """A signal that a rank sends to itself.

    Args:
        number: the signal.
        moment: one of `MOMENTS`.
        step: how many steps are done when it is sent; 0 before the first.
        rank: the rank that sends it.
    """

    number: signal.Signals
    moment: str
    step: int = 0
    rank: int = 0

    def strike(self) -> None:
        """Send it."""
        os.kill(os.getpid(), self.number)

    def arm(self) -> None:
        """Prepare for a moment that no hook of Lightning's knows."""
        if self.moment == "checkpoint":
            self.tear()
        if self.moment == "validation":
            self.interrupt()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the state is loaded."""
        self.trainer = trainer
        if self.moment == "start-up":
            self.strike()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before a step."""
        if self.moment == "step" and trainer.global_step == self.step:
            self.strike()

    def interrupt(self) -> None:
        """Let the signal come when images of that step's validation are read."""
        read = EvenlySpread.__getitem__

        def read_and_strike(records: EvenlySpread, index: int, /) -> Any:
            if self.trainer.global_step == self.step:
                self.strike()
            return read(records, index)

        EvenlySpread.__getitem__ = read_and_strike  # type: ignore[method-assign]

    def tear(self) -> None:
        """Let the signal come when half of that step's checkpoint is on disk."""
        write = checkpoint_io._HashingStream.write

        def write_half(stream: Any, block: Any) -> int:
            if f"step-{self.step:08d}.ckpt" in stream.file.name and stream.size > 10_000 and not torn:
                torn.append(stream)
                stream.file.flush()
                self.strike()
            return write(stream, block)

        torn: list[Any] = []
        checkpoint_io._HashingStream.write = write_half  # type: ignore[method-assign]


def run_rank(cfg: DictConfig, rank: int, ranks: int, port: int, fault: Fault | None) -> None:
    """What one process of a start does; its exit status is the program's."""
    hold_signals()
    torch.set_num_threads(1)
    if ranks > 1:  # as torchrun says it
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "faults"}
    if cfg.compile:  # by torch's quick backend, whose numbers are those of a model that is not compiled
        torch.compiler.set_stance("default", force_backend="eager")
    if fault is not None and fault.rank == rank:
        fault.arm()
        trainer = program.build_trainer
        program.build_trainer = lambda cfg, callbacks, **more: trainer(cfg, callbacks=[fault, *callbacks], **more)
    try:
        program.train(cfg)
    except UserError as error:
        console.print(f"error: {error}", soft_wrap=True)
        sys.exit(2)


def start(cfg: DictConfig, *, ranks: int = 1, fault: Fault | None = None) -> list[Any]:
    """Start the ranks of a training."""
    cfg = cfg.copy()
    cfg.trainer.devices = ranks
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [CONTEXT.Process(target=run_rank, args=(cfg, rank, ranks, port, fault)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def end(processes: Sequence[BaseProcess], timeout: float = 600) -> list[int | None]:
    """Wait for all of them, and return their exit statuses; None for one that hangs, which is killed."""
    for process in processes:
        process.join(timeout)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return statuses


def expected(statuses: Sequence[int | None], fault: Fault) -> bool:
    """Whether the ranks ended as they should after a fault: saved and ready to go on, or with an error."""
    if fault.number == signal.SIGKILL:
        others = [status for rank, status in enumerate(statuses) if rank != fault.rank]
        return statuses[fault.rank] == -signal.SIGKILL and not {None, 0, RUN_AGAIN} & {*others}
    return {*statuses} == {RUN_AGAIN}


def weights(run: Path) -> bytes:
    """The weights of a finished run."""
    return (run / "model" / "model.safetensors").read_bytes()


def judged(run: Path) -> str:
    """What its validations said; nothing if it had none."""
    rows = run / "validation" / "metrics.jsonl"
    return rows.read_text() if rows.exists() else ""


def run_to_the_end(cfg: DictConfig, *faults: Fault, ranks: int = 1) -> list[Any]:
    """Start a training once for each fault and once more, which must finish; the exit statuses of the others."""
    ends = [end(start(cfg, ranks=ranks, fault=fault)) for fault in faults]
    assert end(start(cfg, ranks=ranks)) == [0] * ranks
    return ends


def tiny_runs(folder: Path, *, steps: int, every: int, labels: bool = True) -> Callable[..., DictConfig]:
    """Write small shards, and pseudo labels; returns what makes a config of experiment, run folder and more keys.

    Runs are saved, and judged on images that are held out, every so many steps.
    """
    labelled = write_shards(folder / "labelled", "labelled")
    held_out = write_shards(folder / "held_out", "labelled", counts=(5,), first=50)
    images = write_shards(folder / "images", "images", first=100)

    def run(experiment: str, out: Path, *more: str) -> DictConfig:
        data = [f"labelled=[{labelled}]", *([f"unlabelled=[{folder / 'labels'}]"] if labels else [])]
        keys = [f"steps={steps}", f"checkpoint.every_n_steps={every}", "timeout_s=60"]
        validation = [f"validation=[{held_out}]", f"validate.every_n_steps={every}"]
        return compose("train", [f"experiment={experiment}", f"out={out}", *data, *keys, *validation, *more])

    if not labels:
        return run
    run_to_the_end(run("tiny_teacher", folder / "teacher", "steps=2"))
    labeller = ShardLabeller(ModelTeacher(folder / "teacher", device="cpu"), LabelSettings(size=SIZE))
    label(labeller, images, folder / "labels", engine=LocalEngine())
    return run
