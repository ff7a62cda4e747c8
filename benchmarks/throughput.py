"""`label` with a real network beside that network alone, images a second.

    python benchmarks/throughput.py [--model vits] [--size 518] [--images 4000] [--batch 32] [--precision bf16]
        [--compile] [--workers 12] [--device cuda] [--rounds 3]

The network has random weights and sees pictures of 480 x 640 pixels at one shape. Alone it predicts one batch that lies
on the device again and again, and its maps are fetched, as `label` must; `label` reads, decodes, predicts, encodes and
writes. Both run in turns, after a round that warms up; medians are compared.
"""

from __future__ import annotations

import argparse
import platform
import shutil
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


def alone(teacher: ModelTeacher, given: argparse.Namespace) -> float:
    """Images a second of the network, whose results are fetched one batch late, as the engine does."""
    height, width = teacher.network_size(given.size, round(given.size * ASPECT), given.size)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    batch = teacher.load([teacher.prepare(image, height, width)] * given.batch)
    waiting = None
    start, count = time.perf_counter(), 0
    while count < given.images:
        result = teacher.infer(batch.clone(), flip=False)
        if waiting is not None:
            teacher.fetch(waiting)
        waiting, count = result, count + given.batch
    assert waiting is not None
    teacher.fetch(waiting)
    return count / (time.perf_counter() - start)


def whole(teacher: ModelTeacher, images: Path, out: Path, given: argparse.Namespace) -> float:
    """Images a second of `label`."""
    shutil.rmtree(out, ignore_errors=True)
    settings = LabelSettings(size=given.size, batch_size=given.batch, aspects=[ASPECT])
    start = time.perf_counter()
    label(ShardLabeller(teacher, settings, workers=given.workers), images, out, engine=LocalEngine())
    return given.images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vits")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=12, help="threads that decode, prepare and encode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates: dict[str, list[float]] = {"alone": [], "label": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_images(folder / "images", given.images)
        model = build(compose("train", ["experiment=tiny_teacher", f"model={given.model}", "out=unused"]).model)
        save_model(folder / "teacher", model, {"size": given.size})
        teacher = ModelTeacher(
            folder / "teacher",
            device=given.device,
            precision=given.precision,
            compile=given.compile,
            threads=torch.get_num_threads(),
        )
        for _ in range(given.rounds + 1):
            rates["alone"].append(alone(teacher, given))
            rates["label"].append(whole(teacher, images, folder / "out", given))
    network, engine = (statistics.median(rates[way][1:]) for way in rates)
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()}, {teacher.threads} threads"
    )
    print(f"{given.model} at {given.size}, {given.precision}, compile={given.compile}, batch {given.batch}, {where}, "
          f"torch {torch.__version__}")  # fmt: skip
    print(f"network alone {network:.1f} images/s, `label` {engine:.1f} = {engine / network:.3f} (goal 0.95)")


if __name__ == "__main__":
    main()
