"""`label` with a real network beside that network alone, images a second.

    python benchmarks/throughput.py [--model vits] [--size 518] [--images 8000] [--batch 32] [--precision bf16]
        [--compile] [--processes 4] [--workers 4] [--device cuda]

The network has random weights and sees pictures of 480 x 640 pixels at one shape. Alone it predicts one batch that lies
on the device again and again, and its maps are fetched, as `label` must; `label` reads, decodes, predicts, encodes and
writes, and is timed without its first and its last shards, one for each process. Shards hold whole batches: a compiled
network computes one that is not full as if it were, which hardly counts in shards of thousands of images. The network
runs alone before it and after it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from labels import HEIGHT, WIDTH, write_images

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.labelling.teacher import ModelTeacher
from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.models.checkpoints import save_model

ASPECT = WIDTH / HEIGHT
SHARDS = 8  # for each process


def alone(teacher: ModelTeacher, given: argparse.Namespace) -> float:
    """Images a second of the network, whose results are fetched one batch late, as the engine does."""
    height, width = teacher.network_size(given.size, round(given.size * ASPECT), given.size)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    batch = teacher.load([teacher.prepare(image, height, width)] * given.batch)
    waiting = None
    start, count = time.perf_counter(), 0
    while count < given.images / 4:
        result = teacher.infer(batch.clone(), flip=False)
        if waiting is not None:
            teacher.fetch(waiting)
        waiting, count = result, count + given.batch
    assert waiting is not None
    teacher.fetch(waiting)
    return count / (time.perf_counter() - start)


def whole(teacher: ModelTeacher, images: Path, out: Path, given: argparse.Namespace) -> float:
    """Images a second of `label` while all its processes are at work."""
    settings = LabelSettings(size=given.size, batch_size=given.batch, aspects=[ASPECT])
    labeller = ShardLabeller(teacher, settings, workers=given.workers)
    label(labeller, images, out, engine=LocalEngine(given.processes))
    done = sorted(manifest.stat().st_mtime for manifest in out.glob("0*.json"))
    steady = done[given.processes - 1 : len(done) - given.processes + 1]
    return given.images / len(done) * (len(steady) - 1) / (steady[-1] - steady[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vits")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--processes", type=int, default=4, help="workers of `label` that share the device")
    parser.add_argument("--workers", type=int, default=4, help="of each, threads that decode, prepare and encode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    shard = given.images // (SHARDS * given.processes * given.batch) * given.batch
    if not shard:
        least = SHARDS * given.processes * given.batch
        parser.error(f"expected --images of at least {least}, {SHARDS} batches a process, but got {given.images}")
    given.images = SHARDS * given.processes * shard
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_images(folder / "images", given.images, each=shard)
        model = build(compose("train", ["experiment=tiny_teacher", f"model={given.model}", "out=unused"]).model)
        save_model(folder / "teacher", model, {"size": given.size})
        teacher = ModelTeacher(
            folder / "teacher",
            device=given.device,
            precision=given.precision,
            compile=given.compile,
            threads=torch.get_num_threads(),
        )
        alone(teacher, given)  # warms up
        before, engine, after = (
            alone(teacher, given),
            whole(teacher, images, folder / "out", given),
            alone(teacher, given),
        )
    network = statistics.mean([before, after])
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()}, {teacher.threads} threads"
    )
    print(f"{given.model} at {given.size}, {given.precision}, compile={given.compile}, batch {given.batch}, "
          f"{given.processes} x {given.workers} threads, {where}, torch {torch.__version__}")  # fmt: skip
    share = engine / network
    print(f"network alone {before:.1f} and {after:.1f} images/s, `label` {engine:.1f} = {share:.3f} (goal 0.95)")


if __name__ == "__main__":
    main()
