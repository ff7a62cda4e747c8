"""How fast one GPU does the work, and how much a label takes: given, or measured here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from depth_anything_train.building import build
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import PSEUDO_LABELS
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.device import choose_device
from depth_anything_train.ops.async_scalar import synchronize
from depth_anything_train.ops.sampling import evenly
from depth_anything_train.plan.work import Work
from depth_anything_train.runtime import ProgressBar, UserError

WARM_UP, LEAST_BATCHES, LEAST_SECONDS = 3, 5, 10.0
"""What `measure` runs: batches that do not count, then at least so many and so long."""

MEASURED_LABELS = 64

TERA = 1e12


@dataclass(frozen=True)
class Speed:
    """Images a second of one GPU, and where the figure comes from."""

    images_per_second: float
    source: str


def read_speed(cfg: DictConfig, work: Work) -> Speed:
    """Images a second of one GPU by `throughput`, `measure` or `peak_tflops` and `utilisation`.

    Raises:
        UserError: none of them is given, two contradict each other, or a number makes no sense.
    """
    if cfg.throughput is not None and cfg.measure:
        raise UserError("Expected throughput= or measure=true, but got both.")
    for key in ("throughput", "peak_tflops"):
        if cfg[key] is not None and not (isinstance(cfg[key], int | float) and 0 < cfg[key] < math.inf):
            raise UserError(f"Expected {key} above 0 and finite, but got {cfg[key]!r}.")
    if cfg.throughput is not None:
        return Speed(float(cfg.throughput), "given")
    if cfg.measure:
        device = choose_device(cfg.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return Speed(measure(work, device, cfg.batch_size), f"measured on {name}, batches of {cfg.batch_size}")
    if cfg.peak_tflops is None:
        raise UserError("Expected how fast a GPU is: throughput= in images/s, measure=true, or peak_tflops=.")
    if not 0 < cfg.utilisation <= 1:
        raise UserError(f"Expected utilisation as a share above 0 and up to 1, but got {cfg.utilisation}.")
    rate = cfg.peak_tflops * TERA * cfg.utilisation / work.flops
    return Speed(rate, f"{cfg.utilisation:.0%} of {cfg.peak_tflops:g} TFLOP/s")


def measure(work: Work, device: torch.device, batch_size: int) -> float:
    """Images a second of the network alone, with random weights: no loading, no losses, no optimiser, no writing."""
    image = torch.randn(batch_size, 3, work.height, work.width, device=device)
    step = _training_step(work, image) if work.trains else _labelling_step(work, image)
    with ProgressBar("measure", None) as bar:
        for _ in range(WARM_UP):
            step()
        synchronize(device)
        start, batches = time.perf_counter(), 0
        while batches < LEAST_BATCHES or time.perf_counter() - start < LEAST_SECONDS:
            step()
            synchronize(device)
            batches += 1
            bar.advance(batch_size)
        return batches * batch_size / (time.perf_counter() - start)


def _labelling_step(work: Work, image: torch.Tensor) -> Callable[[], Any]:
    model = DepthAnything(build(work.model), device=image.device, precision="bf16" if image.is_cuda else "fp32")
    return lambda: model.infer(image)


def _training_step(work: Work, image: torch.Tensor) -> Callable[[], Any]:
    model = build(work.model).to(image.device).train()
    frozen = build(work.model).pretrained.to(image.device).eval()
    seen_frozen = round(work.frozen_share * len(image))

    def step() -> None:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=image.is_cuda):
            if seen_frozen:
                with torch.no_grad():
                    frozen(image[:seen_frozen])
            disparity = model(image)
        disparity.mean().backward()
        model.zero_grad()

    return step


def measure_labels(folder: str) -> float:
    """Bytes a pixel of stored pseudo labels, with their place in the tar, from some of them at even distances.

    Raises:
        UserError: the folder holds no pseudo labels.
    """
    labels = ShardFolder(folder)
    if labels.info["kind"] != PSEUDO_LABELS:
        raise UserError(f"Expected pseudo labels in {folder}, but it holds shards of kind {labels.info['kind']}.")
    stored = pixels = 0
    for index in evenly(len(labels), MEASURED_LABELS):
        shard, number = labels.locate(index)
        record = labels.shard(shard).read(number)
        stored += labels.shard(shard).entry(number).extent
        pixels += decode_label(*record.label(), record.meta)[1].size
    if not pixels:
        raise UserError(f"Expected pseudo labels in {folder}, but its shards are empty.")
    return stored / pixels
