"""Samples a second of the training loader over shards of the procedural world, teacher and student, by workers.

    python benchmarks/loader.py [scenes] [size] [seconds]

The student's samples cost more: two shards are read, and two in three are perturbed and mixed. Worker processes are
started before the clock.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from data_engine.ingest.procedural import Procedural
from data_engine.prepare import prepare
from data_engine.writer import ShardWriter
from depth_anything_train.data.cutmix import CutMix
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.schema import PSEUDO_LABELS, SCHEMA
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import LabelledSource, PseudoLabelSource
from depth_anything_train.data.transforms import StrongPerturbation
from depth_anything_train.runtime import write_json

BATCH = {"labelled": 4, "unlabelled": 8}


def write_labels(images: Path, out: Path) -> Path:
    """A pseudo-label folder that holds the exact disparities."""
    folder = ShardFolder(images)
    for number, tar in enumerate(folder.shards):
        with ShardWriter(out / tar.name) as writer:
            for record in map(folder.shard(number).read, range(len(folder.shard(number)))):
                writer.add(record.key, dict([record.label()]))
            writer.commit()
        write_json(out / f"{tar.stem}.json", {})
    write_json(out / "dataset.json", {"schema": SCHEMA, "kind": PSEUDO_LABELS, "images": f"../{images.name}"})
    return out


def rate(data: ShardDataModule, seconds: float) -> float:
    """Samples a second, after a few batches to start workers and caches."""
    batches = iter(data.loader())
    for _ in range(8):
        next(batches)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        steps += 1
    return steps * sum(stream.slots for stream in data.streams.values()) / (time.perf_counter() - start)


def main() -> None:
    scenes, size, seconds = [int(given) for given in sys.argv[1:]] + [48, 168, 5][len(sys.argv) - 1 :]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards, height = Path(folder) / "shards", max(168, size)
        prepare(Procedural(["*-day"], scenes, 0, height, height * 4 // 3), shards, samples_per_shard=16, workers=0)
        sources = {
            "labelled": LabelledSource([shards]),
            "unlabelled": PseudoLabelSource([write_labels(shards, Path(folder) / "labels")]),
        }
        print(f"{scenes} scenes of {height} x {height * 4 // 3}, crops of {size}, samples a second")
        for name, streams in {"teacher": ["labelled"], "student": ["labelled", "unlabelled"]}.items():
            for workers in (0, 2):
                data = ShardDataModule(
                    sources={stream: sources[stream] for stream in streams},
                    batch={stream: BATCH[stream] for stream in streams},
                    size=size,
                    steps=10**9,
                    seed=0,
                    workers=workers,
                    perturbation=StrongPerturbation(),
                    cutmix=CutMix(),
                )
                print(f"  {name}, {workers} workers {rate(data, seconds):8.0f}")


if __name__ == "__main__":
    main()
