"""`depth-anything plan`: what labelling or training will cost, before it is started."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.composition import compose
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import PSEUDO_LABELS
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import write_json
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.device import choose_device
from depth_anything_train.inference.preprocess import network_size
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.flops import count_flops
from depth_anything_train.runtime import ProgressBar, UserError, console

WARM_UP, LEAST_BATCHES, LEAST_SECONDS = 3, 5, 10.0
"""What `measure` runs: batches that do not count, then at least so many and so long."""

MEASURED_LABELS = 64
SQUARE = 1000  # the aspect of an image of so many pixels is right to a thousandth

TERA, EXA = 1e12, 1e18


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        name: in words.
        model: config of the model, as in `configs/train/model`.
        images: how many go through it.
        height, width: pixels of each.
        trains: forward and backward instead of forward alone.
        frozen_share: share of the images that a frozen encoder sees too (feature alignment).
        flops: operations for one image, averaged over all.
    """

    name: str
    model: DictConfig
    images: int
    height: int
    width: int
    trains: bool
    frozen_share: float
    flops: float


@dataclass(frozen=True)
class Speed:
    """Images a second of one GPU, and where the figure comes from."""

    images_per_second: float
    source: str


@command("plan")
def main(cfg: DictConfig) -> None:
    """Print what a configuration will cost and, with `out=`, write the figures."""
    work = read_work(cfg)
    speed = read_speed(cfg, work)
    bytes_per_pixel = measure_labels(cfg.labels) if cfg.labels else cfg.bytes_per_pixel
    figures = estimate(
        work, speed, gpus=cfg.gpus, price=cfg.price, bytes_per_pixel=bytes_per_pixel, peak_tflops=cfg.peak_tflops
    )
    show(figures)
    if cfg.out:
        write_json(cfg.out, figures)


def read_work(cfg: DictConfig) -> Work:
    """What the keys `model` and `images`, or `experiment`, ask for; see `configs/plan/plan.yaml`.

    Raises:
        UserError: both or neither, or one that is not known.
    """
    if (cfg.model is None) == (cfg.experiment is None):
        raise UserError("Expected model= with images=, to label them, or experiment=, to train it: one of the two.")
    if cfg.experiment is not None:
        return _training(str(cfg.experiment))
    if not isinstance(cfg.images, int | float) or not 1 <= cfg.images < float("inf"):
        raise UserError(f"Expected images= as a number of at least 1, but came {cfg.images}; for instance 62e6.")
    if not 1 <= cfg.aspect <= 10:
        raise UserError(f"Expected aspect as longer side / shorter side, from 1 to 10, but came {cfg.aspect}.")
    model = compose("train", ["experiment=tiny_teacher", f"model={cfg.model}", "out=plan"]).model
    height, width = network_size(SQUARE, round(SQUARE * cfg.aspect), cfg.size, patch=model.patch_size)
    flops = count_flops(_config_of(model), height, width)
    return Work(f"label with {cfg.model}", model, round(cfg.images), height, width, False, 0.0, flops.forward)


def _training(experiment: str) -> Work:
    cfg = compose("train", [f"experiment={experiment}", "out=plan"])
    batch = cfg.data.batch
    if {"semantic", "segmented"} & set(batch):
        raise UserError(f"Expected an experiment that trains a depth model, but {experiment} has another decoder.")
    in_batch = sum(batch.values())
    frozen_share = batch.get("unlabelled", 0) / in_batch if cfg.task.get("frozen_encoder") else 0.0
    height, width = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
    flops = count_flops(_config_of(cfg.model), height, width)
    return Work(
        name=f"train {experiment}",
        model=cfg.model,
        images=cfg.steps * in_batch,
        height=height,
        width=width,
        trains=True,
        frozen_share=frozen_share,
        flops=flops.training + frozen_share * flops.encoder,
    )


def _config_of(model: DictConfig) -> DepthModelConfig:
    with torch.device("meta"):
        return build(model).config


# -- How fast one GPU is. ----------------------------------------------------------------------------------------------


def read_speed(cfg: DictConfig, work: Work) -> Speed:
    """Images a second of one GPU by `throughput`, `measure` or `peak_tflops` and `utilisation`.

    Raises:
        UserError: none of them is given, two contradict each other, or a number makes no sense.
    """
    if cfg.throughput is not None and cfg.measure:
        raise UserError("Expected throughput= or measure=true, but came both.")
    for key in ("throughput", "peak_tflops"):
        if cfg[key] is not None and not (isinstance(cfg[key], int | float) and cfg[key] > 0):
            raise UserError(f"Expected {key} above 0, but came {cfg[key]!r}.")
    if cfg.throughput is not None:
        return Speed(float(cfg.throughput), "given")
    if cfg.measure:
        device = choose_device(cfg.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return Speed(measure(work, device, cfg.batch_size), f"measured on {name}, batches of {cfg.batch_size}")
    if cfg.peak_tflops is None:
        raise UserError("Expected how fast a GPU is: throughput= in images/s, measure=true, or peak_tflops=.")
    if not 0 < cfg.utilisation <= 1:
        raise UserError(f"Expected utilisation as a share above 0 and up to 1, but came {cfg.utilisation}.")
    rate = cfg.peak_tflops * TERA * cfg.utilisation / work.flops
    return Speed(rate, f"{cfg.utilisation:.0%} of {cfg.peak_tflops:g} TFLOP/s")


def measure(work: Work, device: torch.device, batch_size: int) -> float:
    """Images a second of the network alone, with random weights: no loading, no losses, no optimiser, no writing."""
    image = torch.randn(batch_size, 3, work.height, work.width, device=device)
    step = _training_step(work, image) if work.trains else _labelling_step(work, image)
    with ProgressBar("measure", None) as bar:
        for _ in range(WARM_UP):
            step()
        _wait(device)
        start, batches = time.perf_counter(), 0
        while batches < LEAST_BATCHES or time.perf_counter() - start < LEAST_SECONDS:
            step()
            _wait(device)
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_labels(folder: str) -> float:
    """Bytes a pixel of stored pseudo labels, with their place in the tar, from some of them at even distances.

    Raises:
        UserError: the folder holds no pseudo labels.
    """
    labels = ShardFolder(folder)
    if labels.info["kind"] != PSEUDO_LABELS:
        raise UserError(f"Expected pseudo labels in {folder}, but it holds shards of kind {labels.info['kind']}.")
    stored = pixels = 0
    count = min(len(labels), MEASURED_LABELS)
    for k in range(count):
        shard, number = labels.locate(len(labels) * k // count)
        record = labels.shard(shard).read(number)
        stored += labels.shard(shard).entry(number).extent
        pixels += decode_label(*record.label(), record.meta)[1].size
    if not pixels:
        raise UserError(f"Expected pseudo labels in {folder}, but its shards are empty.")
    return stored / pixels


# -- What it comes to. -------------------------------------------------------------------------------------------------


def estimate(
    work: Work, speed: Speed, *, gpus: int, price: float | None, bytes_per_pixel: float, peak_tflops: float | None
) -> dict[str, Any]:
    """All figures, plain JSON.

    Args:
        work: what is to be done.
        speed: of one GPU.
        gpus: that share the work without loss.
        price: of one GPU hour.
        bytes_per_pixel: of a stored label.
        peak_tflops: of one GPU, to say which share of it is used.

    Raises:
        UserError: a number is out of range.
    """
    if gpus < 1:
        raise UserError(f"Expected gpus of at least 1, but came {gpus}.")
    if price is not None and price < 0:
        raise UserError(f"Expected a price of at least 0, but came {price}.")
    gpu_hours = work.images / speed.images_per_second / 3600
    per_label = None if work.trains else bytes_per_pixel * work.height * work.width
    achieved = speed.images_per_second * work.flops / TERA
    return {
        **{key: value for key, value in asdict(work).items() if key != "model"},
        "total_flops": work.flops * work.images,
        "images_per_second_per_gpu": speed.images_per_second,
        "speed_source": speed.source,
        "tflops_per_gpu": achieved,
        "utilisation": achieved / peak_tflops if peak_tflops else None,
        "gpus": gpus,
        "gpu_hours": gpu_hours,
        "hours": gpu_hours / gpus,
        "price_per_gpu_hour": price,
        "cost": None if price is None else price * gpu_hours,
        "bytes_per_label": per_label,
        "label_bytes": None if per_label is None else per_label * work.images,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("", f"{figures['name']}, {figures['height']} x {figures['width']} pixels", show_edge=False)
    table.add_row("images", f"{figures['images']:,}")
    table.add_row("FLOP an image", f"{figures['flops'] / 1e9:,.1f} G")
    table.add_row("FLOP together", f"{figures['total_flops'] / EXA:,.3g} E")
    table.add_row("images/s a GPU", f"{figures['images_per_second_per_gpu']:,.4g} ({figures['speed_source']})")
    share = f", {figures['utilisation']:.0%} of its peak" if figures["utilisation"] else ""
    table.add_row("TFLOP/s a GPU", f"{figures['tflops_per_gpu']:,.3g}{share}")
    table.add_row("GPU hours", f"{figures['gpu_hours']:,.1f}")
    table.add_row("wall time", f"{_duration(figures['hours'])} on {figures['gpus']} GPUs")
    if figures["cost"] is not None:
        table.add_row("cost", f"{figures['cost']:,.0f} at {figures['price_per_gpu_hour']:g} a GPU hour")
    if figures["label_bytes"] is not None:
        label = f"{figures['label_bytes'] / TERA:,.3g} TB, {figures['bytes_per_label'] / 1e3:,.0f} kB each"
        table.add_row("labels on disk", label)
    console.print(table)


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
