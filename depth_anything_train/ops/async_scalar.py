"""Reading a number from the device without waiting for work that was started after it."""

from __future__ import annotations

import torch
from torch import Tensor


class AsyncScalar:
    """A number that is being copied asynchronously to the host.

    `float(x)` of a number on a GPU waits for everything that was given to the GPU so far; `read()` only for what came
    before this object was made.
    """

    def __init__(self, x: Tensor) -> None:
        self.value = x.detach().to("cpu", non_blocking=x.is_cuda, copy=True)
        self.arrived: torch.cuda.Event | None = None
        if x.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def read(self) -> float:
        """The number."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return float(self.value)


def synchronize(device: torch.device) -> None:
    """Until a GPU has done what it was asked for: before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
