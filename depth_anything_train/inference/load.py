"""What a user calls a model, opened: Depth Anything in any form, or MiDaS beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.midas import Midas

MIDAS = "midas"


def load_predictor(source: str | Path, *, device: str | torch.device | None = None) -> DepthAnything | Midas:
    """Open a model to predict with.

    Args:
        source: whatever `DepthAnything.from_pretrained` takes; `midas` (DPT-BEiT-L-512), `midas:hybrid` (DPT-Hybrid),
            or `midas:FOLDER`, a DPT that transformers saved.
        device: where it runs; None or `auto` is a CUDA device where there is one.

    Raises:
        UserError: there is no such model, or its files do not belong together.
    """
    name, _, which = str(source).partition(":")
    if name == MIDAS:
        return Midas.from_pretrained(which or "large", device=device)
    return DepthAnything.from_pretrained(source, device=device)
