"""Does the model give the same output in sixteen bits?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depth_anything_train.doctor.outcome import Outcome

LARGEST = 0.02
"""Median difference from float32 as a share of its range that is no concern; random weights stay below it."""


def check_precision(model: nn.Module, image: Tensor) -> Outcome:
    """Outputs in bfloat16 and float16 beside those in float32, on a few normalised images (B, 3, H, W)."""
    exact = _predict(model, image, None)
    spread = float(exact.max() - exact.min())
    if not torch.isfinite(exact).all() or spread == 0:
        return Outcome(
            "precision", "warning", f"float32 predicts {exact.min():.3g} to {exact.max():.3g}: no shape yet."
        )
    found, bad = [], []
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        try:
            predicted = _predict(model, image, dtype)
        except RuntimeError as error:  # a kernel that this device does not have
            found.append(f"{name} is not supported here ({str(error).partition(chr(10))[0][:60]})")
            continue
        difference = (predicted - exact).abs() / spread
        finite = float(torch.isfinite(predicted).float().mean())
        found.append(f"{name} {difference.median():.2%} median, {difference.max():.2%} largest")
        if finite < 1:
            bad.append(f"{name} overflows at {1 - finite:.1%} of the pixels: use another precision=")
        elif difference.median() > LARGEST:
            bad.append(f"{name} is far off float32")
    message = "difference from float32 as a share of its range: " + "; ".join(found)
    if bad:
        return Outcome("precision", "warning", f"{message}. {'. '.join(bad)}.")
    return Outcome("precision", "ok", message + ".")


@torch.no_grad()
def _predict(model: nn.Module, image: Tensor, dtype: torch.dtype | None) -> Tensor:
    with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
        return model(image).float()
