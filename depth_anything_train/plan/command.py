"""`depth-anything plan`: what labelling or training will cost, before it is started."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from depth_anything_train.command import command
from depth_anything_train.files import write_json
from depth_anything_train.plan.speed import TERA, Speed, measure_labels, read_speed
from depth_anything_train.plan.work import Work, read_work
from depth_anything_train.runtime import UserError, console, require_count

EXA = 1e18


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


def estimate(
    work: Work, speed: Speed, *, gpus: int, price: float | None, bytes_per_pixel: float, peak_tflops: float | None
) -> dict[str, Any]:
    """All figures, plain JSON.

    Args:
        work: what is to be done.
        speed: speed of one GPU.
        gpus: number of GPUs; they are taken to share the work without loss.
        price: price of one GPU hour; None if it is not known.
        bytes_per_pixel: bytes per pixel of a stored label.
        peak_tflops: peak TFLOP/s of one GPU, to say which share of it is used.

    Raises:
        UserError: a number is out of range.
    """
    require_count("gpus", gpus)
    if not 0 < bytes_per_pixel < math.inf:
        raise UserError(f"Expected bytes_per_pixel above 0 and finite, but got {bytes_per_pixel}.")
    if price is not None and not price >= 0:
        raise UserError(f"Expected a price of at least 0, but got {price}.")
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
