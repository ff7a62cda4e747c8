"""The student's step: time and share of each bare part, and the whole step of `train` beside their sum.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--model vits] [--size 518] [--batch 1 2] [--precision 32-true]
        [--compile] [--steps 10] [--rounds 3] [key=value ...]

Further `key=value` go to `train` as they are: `workers=8 data.cache_mb=0 trainer.devices=1`. Parts, each waited for:
data (the loader alone), to the device, student forward, frozen forward, losses, backward, optimiser. The whole is the
distance between two steps of `depth-anything train`, with its loops and callbacks; every fifth step is logged. Both run
in turns, and medians are compared: on a CPU of processor time, which others on the machine do not change (`--wall`
takes wall time). A GPU is waited for at logged steps alone, so there the whole is a mean from one to the next.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

sys.path.append(str(Path(__file__).resolve().parent))
from loader import write_pictures  # noqa: E402

from depth_anything_train.building import build  # noqa: E402
from depth_anything_train.composition import compose  # noqa: E402
from depth_anything_train.models.compilation import compile_parts  # noqa: E402
from depth_anything_train.models.flops import count_flops, peak_flops  # noqa: E402
from depth_anything_train.tasks.student import StudentTask  # noqa: E402
from depth_anything_train.train import train  # noqa: E402
from depth_anything_train.trainer import choose_precision  # noqa: E402

WARM_UP, LOGGED = 3, 5  # steps that do not count; every how many are logged
PARTS = ("data", "to the device", "student forward", "frozen forward", "losses", "backward", "optimiser")


def config(folder: Path, given: argparse.Namespace, overrides: list[str]) -> DictConfig:
    """A student of `given.model` on pictures of about its size, which are written if they are not there."""
    labelled, pseudo = folder / "labelled", folder / "pseudo"
    if not labelled.exists():
        long = -(-given.size * 4 // 3 // 14) * 14
        write_pictures(labelled, given.size, long, given.size, long, pseudo=False)
        write_pictures(pseudo, given.size, long, given.size, long, pseudo=True)
    device = "cpu" if given.device == "cpu" else "gpu"
    return compose(
        "train",
        [
            "experiment=tiny_student",
            f"model={given.model}",
            f"size={given.size}",
            f"steps={given.steps + WARM_UP}",
            f"precision={given.precision}",
            f"compile={str(given.compile).lower()}",
            f"labelled=[{labelled / 'shards'}]",
            f"unlabelled=[{pseudo / 'labels'}]",
            f"data.batch={{labelled:{given.batch[0]},unlabelled:{given.batch[1]}}}",
            "data.cache_mb=512",
            f"log_every_n_steps={LOGGED}",
            f"checkpoint.every_n_steps={given.steps + WARM_UP + 1}",
            f"trainer.accelerator={device}",
            f"trainer.deterministic={str(given.device == 'cpu').lower()}",
            f"out={folder / 'run'}",
            *overrides,
        ],
    )


class Clock:
    """Seconds of each part: processor time or wall time, with the device waited for."""

    def __init__(self, device: torch.device, wall: bool) -> None:
        self.device = device
        self.now: Callable[[], float] = time.perf_counter if wall or device.type == "cuda" else time.process_time
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.read()
        yield
        self.seconds[name].append(self.read() - start)

    def read(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.now()


def bare(cfg: DictConfig, clock: Clock, compiled: bool) -> StudentTask:
    """The same steps without a framework, each part by itself."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(bool(cfg.trainer.deterministic))  # as `train` does, which is not undone
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = build(cfg.model)
    task: StudentTask = build(cfg.task, model=model, optim=build(cfg.optim), steps=cfg.steps).to(clock.device)
    optimizer, schedule = task.optim.build(task.model, cfg.steps)
    half = choose_precision(cfg.precision, clock.device.type) == "bf16-mixed"
    frozen = task.frozen_encoder
    assert frozen is not None and task.feature is not None
    if half and clock.device.type == "cuda":
        frozen.to(torch.bfloat16)
    if compiled:
        compile_parts(task)
    batches = iter(build(cfg.data).loader())
    for step in range(cfg.steps):
        record = clock if step >= WARM_UP else Clock(clock.device, False)
        with record.part("data"):
            batch: Any = next(batches)
        with record.part("to the device"):
            batch = {
                name: {k: v.to(clock.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in stream.items()}
                for name, stream in batch.items()
            }
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        count = len(labelled["image"])
        with torch.autocast(clock.device.type, torch.bfloat16, enabled=half):
            with record.part("student forward"):
                image = task.to_model(torch.cat([labelled["image"], unlabelled["image"]]))
                prediction, patches = task.model.forward_features(image)
            with record.part("frozen forward"):
                features = frozen(image[count:])
            with record.part("losses"):
                maps = (unlabelled[k] for k in ("disparity", "valid", "region"))
                loss = task.labelled(prediction[:count], labelled["disparity"], labelled["valid"])
                loss = loss + task.pseudo(prediction[count:], *maps)
                loss = (loss + task.feature(patches[count:], features)) / 3
        with record.part("backward"):
            loss.backward()
        with record.part("optimiser"):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return task


def whole(cfg: DictConfig, clock: Clock) -> None:
    """Seconds from each step to the next, of the command itself; steps that are logged by themselves."""
    times: list[float] = []
    original = StudentTask.training_step

    def noted(self: StudentTask, *batch: Any) -> Any:
        times.append(clock.now())
        return original(self, *batch)

    StudentTask.training_step = noted  # type: ignore[method-assign]
    try:
        train(cfg)
    finally:
        StudentTask.training_step = original  # type: ignore[method-assign]
        shutil.rmtree(cfg.out)
    for step, (start, end) in enumerate(itertools.pairwise(times)):
        if step >= WARM_UP:
            clock.seconds["logged" if (step + 1) % LOGGED == 0 else "unlogged"].append(end - start)
    if clock.device.type == "cuda":  # is handed steps faster than it computes them, until a logged one waits for it
        waited = times[LOGGED::LOGGED]
        clock.seconds["whole"] += [(end - start) / LOGGED for start, end in itertools.pairwise(waited)]
    else:
        clock.seconds["whole"] = clock.seconds["unlogged"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vits")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--batch", type=int, nargs=2, default=(1, 2), metavar=("LABELLED", "UNLABELLED"))
    parser.add_argument("--precision", default="auto", help="32-true, bf16-mixed or auto")
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks, the bare ones and those of `train`"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=10, help="of a round that count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, where its name does not say")
    parser.add_argument("--wall", action="store_true", help="wall time on a CPU too")
    given, overrides = parser.parse_known_args()
    device = torch.device(given.device)
    fewest = (2 * LOGGED if device.type == "cuda" else LOGGED) + 1 - WARM_UP
    if given.steps < fewest:
        parser.error(f"expected --steps of at least {fewest}, or too few of them are logged, but got {given.steps}")
    clock = Clock(device, given.wall)
    with tempfile.TemporaryDirectory() as folder:
        cfg = config(Path(folder), given, overrides)
        for _ in range(given.rounds):
            task = bare(cfg, clock, given.compile)
            whole(cfg, clock)
    report(given, task, {name: statistics.median(seconds) for name, seconds in clock.seconds.items()})


def report(given: argparse.Namespace, task: StudentTask, medians: dict[str, float]) -> None:
    """Print the table of medians."""
    cuda = given.device != "cpu"
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    peak = 1e12 * given.peak if given.peak else peak_flops(where) if cuda else None
    flops = count_flops(task.model.config, given.size, given.size)
    images, unlabelled = sum(given.batch), given.batch[1]
    work = {
        "student forward": images * flops.forward,
        "frozen forward": unlabelled * flops.encoder,
        "backward": images * (flops.training - flops.forward),
    }
    parts, step = {name: medians[name] for name in PARTS}, medians["whole"]
    total = sum(parts.values())
    precision = choose_precision(given.precision, "cuda" if cuda else "cpu")
    print(f"{given.model} at {given.size}, batch {given.batch[0]} + {given.batch[1]}, "
          f"{precision}, {where}, torch {torch.__version__}")  # fmt: skip
    rows = {**parts, "sum of the bare parts": total, "whole step of `train`": step}
    work |= {name: sum(work.values()) for name in ("sum of the bare parts", "whole step of `train`")}
    for name, seconds in rows.items():
        speed = f"{work[name] / seconds / 1e12:9.3f} TFLOP/s" if name in work else ""
        share = f" {work[name] / seconds / peak:6.1%} of the peak" if name in work and peak else ""
        print(f"  {name:<24} {1e3 * seconds:10.2f} ms {seconds / total:7.1%} {speed}{share}")
    print(f"whole / parts = {step / total:.3f}; {images / step:.2f} images/s; "
          f"a logged step / another = {medians['logged'] / medians['unlogged']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
