"""`depth-anything segment`: a segmenter on segmented shards -> mIoU beside the papers', IoU by class, pictures.

The same on several processes: `torchrun --nproc-per-node 2 -m depth_anything_train.cli segment key=value ...`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.composition import plain
from depth_anything_train.data.schema import SEGMENTED
from depth_anything_train.data.segmentation import check_classes
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.test_sets import EvenlySpread, open_data
from depth_anything_train.evaluation.distributed import join_ranks
from depth_anything_train.evaluation.files import PAGE, describe_data, refuse_others
from depth_anything_train.evaluation.models import name_of
from depth_anything_train.evaluation.segmentation import Counted, count
from depth_anything_train.evaluation.segmentation_page import pictures, segmentation_page
from depth_anything_train.files import csv_text, require_writable, write_bytes, write_json
from depth_anything_train.inference.device import choose_device
from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.metrics.results import RESULTS_FILE
from depth_anything_train.metrics.segmentation import best_constant_miou, class_ious
from depth_anything_train.models.segmenter import load_segmenter
from depth_anything_train.runtime import console, provenance


@command("segment")
def main(cfg: DictConfig) -> None:
    """Judge `cfg.model` on `cfg.data` and write to `cfg.out`."""
    out = Path(cfg.out)
    require_writable(out)
    model, about = load_segmenter(cfg.model)
    folders = open_data(plain(cfg.data), kind=SEGMENTED)
    for folder in folders.values():
        check_classes(folder.path, folder.info.get("classes"), model.config.num_classes)
    window: SlidingWindow = build(cfg.benchmark.window)
    refuse_others(out, {"hash": about["hash"]}, folders, {"window": asdict(window), "limit": cfg.limit})
    chosen = {name: EvenlySpread(folder, cfg.limit) for name, folder in folders.items()}
    with join_ranks() as ranks:  # which gives each process its GPU
        model.to(choose_device(cfg.device))
        if ranks.first:
            warn_of_others(cfg.benchmark, folders)
        counted = count(model, chosen, window, ranks=ranks)
        if not ranks.first:
            return
    results = summarise(cfg, counted, window, about, folders)
    write_bytes(out / "results.csv", to_csv(results["classes"]).encode())
    write_bytes(out / PAGE, segmentation_page(results, pictures(model, chosen, window, cfg.pictures)).encode())
    write_json(out / RESULTS_FILE, results)
    console.print(
        f"mIoU {100 * results['miou']:.1f} %, accuracy {100 * results['accuracy']:.1f} % ({counted.images} images, "
        f"{counted.skipped.total()} skipped): {out / PAGE}",
        soft_wrap=True,
    )


def summarise(
    cfg: DictConfig,
    counted: Counted,
    window: SlidingWindow,
    about: Mapping[str, Any],
    folders: Mapping[str, ShardFolder],
) -> dict[str, Any]:
    """The content of results.json: the numbers, and everything that decided them."""
    names = next(iter(folders.values())).info["classes"]
    papers = {} if others_than(cfg.benchmark, folders) else cfg.benchmark.paper
    ious, pixels = class_ious(counted.confusion).tolist(), counted.confusion.sum(1).tolist()
    return {
        "schema": 1,
        "benchmark": title_of(cfg.benchmark, folders),
        "model": {"name": name_of(cfg.model), "hash": about["hash"], "experiment": about.get("experiment")},
        "data": describe_data(folders),
        "window": asdict(window),
        "limit": cfg.limit,
        **counted.measures(),
        "best_constant_miou": best_constant_miou(counted.confusion),
        "classes": [
            {"name": name, "iou": None if iou != iou else iou, "pixels": count}
            for name, iou, count in zip(names, ious, pixels, strict=True)
        ],
        "paper_miou": {title: value / 100 for title, value in papers.items()},
        "skipped": dict(counted.skipped),
        "provenance": provenance(),
    }


def others_than(benchmark: DictConfig, folders: Mapping[str, ShardFolder]) -> list[str]:
    """Data sets among the folders that the benchmark is not about: no number of the papers belongs beside theirs."""
    return sorted({str(folder.info.get("source", "")) for folder in folders.values()} - {str(benchmark.source)})


def warn_of_others(benchmark: DictConfig, folders: Mapping[str, ShardFolder]) -> None:
    """Say that the data are not those of the benchmark, where that is so."""
    if others := others_than(benchmark, folders):
        console.print(
            f"warning: the shards are of {', '.join(others)} and the benchmark is {benchmark.title}: no number of the "
            "papers stands beside ours. Choose benchmark= by the data set, if there is one.",
            style="bold yellow",
            soft_wrap=True,
        )


def title_of(benchmark: DictConfig, folders: Mapping[str, ShardFolder]) -> str:
    """What was judged: the benchmark, or other data in its way."""
    others = others_than(benchmark, folders)
    return f"{', '.join(others)}, in the windows of {benchmark.title}" if others else str(benchmark.title)


def to_csv(classes: Sequence[Mapping[str, Any]]) -> str:
    """A line a class: its name, IoU (empty where nothing shows it) and labelled pixels."""
    return csv_text(["name", "iou", "pixels"], classes)
