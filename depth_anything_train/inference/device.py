"""Where a predictor runs."""

from __future__ import annotations

import torch

from depth_anything_train.runtime import UserError


def choose_device(wanted: str | torch.device | None = None) -> torch.device:
    """The device by name; `auto` or None is a CUDA device where there is one, then Apple's `mps`, then the CPU.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if wanted is None or wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"Expected a device such as cpu or cuda, but {wanted} cannot be used: {reason}.") from None
