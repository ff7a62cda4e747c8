"""Open whatever a user names as a model: Depth Anything in any form, or MiDaS."""

from __future__ import annotations

from pathlib import Path

import torch

from depth_anything_train.inference.depth_anything import DepthAnything, Precision
from depth_anything_train.inference.midas import Midas
from depth_anything_train.inference.prediction import PhotoPredictor
from depth_anything_train.models.attention import Kernel
from depth_anything_train.runtime import UserError

MIDAS = "midas"


def load_predictor(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    attention: Kernel = "sdpa",
    compile: bool = False,
) -> PhotoPredictor:
    """Open a model to predict with.

    Args:
        source: whatever `DepthAnything.from_pretrained` takes; `midas` (DPT-BEiT-L-512), `midas:hybrid` (DPT-Hybrid),
            or `midas:FOLDER`, a DPT that transformers saved.
        device: where it runs; None or `auto` is a CUDA device where there is one.
        precision: `fp32` or `bf16`; this and what follows as of `DepthAnything`, and not for MiDaS.
        attention: `sdpa` or `xformers`.
        compile: compile the network for each size of image.

    Raises:
        UserError: there is no such model, its files do not belong together, or MiDaS is asked for what it cannot do.
    """
    name, _, which = str(source).partition(":")
    if name == MIDAS:
        if (precision, attention, compile) != ("fp32", "sdpa", False):
            raise UserError("MiDaS runs as transformers has it: leave out precision, attention and compile.")
        return Midas.from_pretrained(which or "large", device=device)
    return DepthAnything.from_pretrained(
        source, device=device, precision=precision, attention=attention, compile=compile
    )
