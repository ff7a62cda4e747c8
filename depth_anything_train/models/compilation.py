"""torch.compile, part by part: equal blocks share one compiled form, and weights keep their names."""

from __future__ import annotations

import torch
from torch import nn

from depth_anything_train.models.block import Block
from depth_anything_train.models.dpt import DPTHead
from depth_anything_train.models.frozen import Frozen


def compile_parts(module: nn.Module) -> None:
    """Have every block of an encoder and every decoder inside `module` compiled when they first run, in place.

    Frozen networks too. All blocks of a network are compiled once, and each size of batch or image once more. What lies
    between them is cheap, and stays as it is.
    """
    # DDP's gradients travel while backward goes on to the next block; to cut blocks into smaller parts would lose more.
    torch._dynamo.config.optimize_ddp = False
    for part in module.modules():
        if isinstance(part, Frozen):
            compile_parts(part.module)
        elif isinstance(part, Block | DPTHead):
            part.compile(dynamic=False)


def compile_problem(error: RuntimeError) -> str | None:
    """What torch.compile could not do, in a sentence: its own limits, or no compiler; None for any other error."""
    if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return None
    reason = " ".join(map(str.strip, str(error).split("\n")[:2]))
    return f"torch.compile failed ({reason}); compile=false trains without it."
