"""Where numbers must not be rounded to sixteen bits: losses, statistics and the last layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def cpu_multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it; others compute it piecemeal, and take far longer."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def at_least_float32(x: Tensor) -> Tensor:
    """Raise half precision to float32; float32, float64, integers and booleans stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside autocast, with its half-precision tensor arguments raised to float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        costs_alone = device == "meta"  # on which they are counted, and which torch does not cast on
        with nullcontext() if costs_alone else torch.autocast(device, enabled=False):
            raised = [at_least_float32(x) if isinstance(x, Tensor) else x for x in args]
            named = {key: at_least_float32(x) if isinstance(x, Tensor) else x for key, x in kwargs.items()}
            return function(*raised, **named)  # type: ignore[arg-type]

    return run
