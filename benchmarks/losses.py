"""Time of the batched affine-invariant loss beside a per-image loop, forward and backward, in one run.

    python benchmarks/losses.py [batch] [side] [repeats]

Prints both median times and their ratio, on one thread and on all: the batched form selects all medians in parallel.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from depth_anything_train.losses.affine_invariant import AffineInvariantLoss


def loop_loss(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The loss as it is usually written: one image after the other, valid pixels picked by indexing."""
    losses = []
    for one_pred, one_target, one_valid in zip(pred, target, valid, strict=True):
        losses.append((normalized(one_pred[one_valid]) - normalized(one_target[one_valid])).abs().mean())
    return torch.stack(losses).mean()


def normalized(values: Tensor) -> Tensor:
    deviation = values - values.median()
    return deviation / deviation.abs().mean().clamp(min=1e-6)


def seconds(loss: Callable[[Tensor, Tensor, Tensor], Tensor], pred: Tensor, target: Tensor, valid: Tensor) -> float:
    pred.grad = None
    start = time.perf_counter()
    loss(pred, target, valid).backward()
    return time.perf_counter() - start


def compare(batch: int, side: int, repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    pred = torch.rand(batch, 1, side, side, generator=generator).requires_grad_()
    target = torch.rand(batch, 1, side, side, generator=generator)
    valid = torch.rand(batch, 1, side, side, generator=generator) < 0.9
    ways = {"batched": AffineInvariantLoss(), "loop": loop_loss}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 2):
        for name, loss in ways.items():  # alternating, so that a busy moment of the machine meets both
            elapsed = seconds(loss, pred, target, valid)
            if repeat >= 2:
                times[name].append(elapsed)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    difference = abs(ways["batched"](pred, target, valid) - ways["loop"](pred, target, valid)).item()
    print(f"{batch} x {side} x {side}, forward and backward, median of {repeats}, {threads} thread(s):")
    print("  " + ", ".join(f"{name} {median:.1f} ms" for name, median in medians.items()))
    print(f"  loop / batched = {medians['loop'] / medians['batched']:.2f}; values differ by {difference:.1e}")


def main() -> None:
    batch, side, repeats = [int(given) for given in sys.argv[1:]] + [8, 518, 15][len(sys.argv) - 1 :]
    for threads in sorted({1, os.cpu_count() or 1}):
        compare(batch, side, repeats, threads)


if __name__ == "__main__":
    main()
