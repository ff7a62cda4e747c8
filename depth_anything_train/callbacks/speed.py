"""How fast the run is and what slows it down: numbers about the machine, separate from those about the method."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from depth_anything_train.callbacks.metrics_log import MACHINE
from depth_anything_train.ops.async_scalar import synchronize
from depth_anything_train.tasks.base import Task
from depth_anything_train.tasks.steps import ends_step, has_row


class Speed(Callback):
    """Log images a second, share of time spent waiting for data, model FLOPs utilisation and memory.

    Means over the steps since the last row; the first step, which warms up, counts for none. Only at steps with a row
    is the device waited for.

    Args:
        peak_flops: dense 16-bit operations a second of one device; None leaves the utilisation out.
    """

    def __init__(self, *, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self.flops: int | None = None
        self.start: float | None = None
        self.images = self.batches = 0
        self.waited = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and at the steps that have a row log and begin anew."""
        self.images += sum(len(stream["image"]) for stream in batch.values())
        self.batches += 1
        if not ends_step(trainer):
            return
        if self.start is None:
            assert isinstance(pl_module, Task)
            self.flops = pl_module.count_flops(batch)
            return self._begin(trainer, pl_module)
        if not has_row(trainer.global_step, trainer):
            return
        synchronize(pl_module.device)
        seconds = time.perf_counter() - self.start
        numbers = {
            "images_per_second": self.images * trainer.world_size / seconds,
            "data_wait_share": (_waited(trainer) - self.waited) / seconds,
            "memory_gb": _memory(pl_module.device) / 1e9,
        }
        if self.flops is not None:
            achieved = self.flops * self.batches / seconds
            numbers["tflops_per_device"] = achieved / 1e12
            if self.peak_flops is not None:
                numbers["utilisation"] = achieved / self.peak_flops
        pl_module.log_dict({MACHINE + name: value for name, value in numbers.items()})
        self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronize(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self.images = self.batches = 0
        self.start, self.waited = time.perf_counter(), _waited(trainer)


def _waited(trainer: Trainer) -> float:
    return getattr(trainer.train_dataloader, "waited", 0.0)


def _memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on the GPU since the last look, or this process at any time on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
