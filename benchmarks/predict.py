"""Photographs a second of `predict_photos` beside the loop it replaces: read, predict and write, one after the other.

    python benchmarks/predict.py FOLDER [size] [repeats]

Both write the default outputs of every photograph in FOLDER with an S model of random weights; prints both medians and
their ratio, and what `fast` saves of the preparation.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.photos import predict_photos
from depth_anything_train.inference.prediction import load_image
from depth_anything_train.inference.preprocess import prepare
from depth_anything_train.inference.sources import Photos, find_source


def together(model: DepthAnything, photos: Photos, out: Path, size: int) -> None:
    assert not any(predict_photos(model, photos, out, Outputs(), size=size))


def loop(model: DepthAnything, photos: Photos, out: Path, size: int) -> None:
    for file, name in photos:
        image = load_image(file)
        Outputs().write(out / name, image, model.predict(image, size=size))


def medians(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():  # alternating, so that a busy moment of the machine meets both
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    photos = find_source(sys.argv[1])
    size, repeats = (int(argument) for argument in (sys.argv[2:] + ["140", "3"][len(sys.argv) - 2 :]))
    torch.manual_seed(0)
    model = DepthAnything(build(compose("train", ["experiment=tiny_teacher", "model=vits", "out=none"]).model))
    with tempfile.TemporaryDirectory() as folder:
        ways = {way.__name__: lambda way=way: way(model, photos, Path(folder), size) for way in (together, loop)}
        found = medians(ways, repeats)
    print(f"{len(photos)} photographs, S at {size} on {model.device}, {torch.get_num_threads()} thread(s):")
    print("  " + ", ".join(f"{name} {len(photos) / seconds:.2f} a second" for name, seconds in found.items()))
    print(f"  together / loop = {found['loop'] / found['together']:.2f}")

    image = max((load_image(file) for file, _ in photos), key=lambda image: image.size)
    found = medians({str(fast): lambda fast=fast: prepare([image], 518, fast=fast) for fast in (False, True)}, 10)
    print(f"preparing {image.shape[1]} x {image.shape[0]}: exact {1000 * found['False']:.1f} ms, ", end="")
    print(f"fast {1000 * found['True']:.1f} ms, exact / fast = {found['False'] / found['True']:.2f}")


if __name__ == "__main__":
    main()
