"""Numbers that are worth a look, named where they arise; whoever wants them opens a collector, else they cost nothing.

    with watching() as seen:
        loss = pseudo_label_loss(...)  # inside: watch("trimmed_pixels", lambda: ...)
    seen["trimmed_pixels"]

So losses return what they are, one number with a gradient, and still say what they did to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from depth_anything_train.ops.masked import nanmedian

_collectors: list[dict[str, Tensor]] = []

STRIDE = 4
"""Every fourth pixel in both directions gives the same median in a sixteenth of the time."""


@contextmanager
def watching() -> Iterator[dict[str, Tensor]]:
    """Collect what is watched inside this block, by name. The tensors stay on their device: nothing waits for it."""
    seen: dict[str, Tensor] = {}
    _collectors.append(seen)
    try:
        yield seen
    finally:
        _collectors.pop()


def watch(name: str, measure: Callable[[], Tensor]) -> None:
    """Note a number, or one number an image (B,), NaN where an image has none; not computed when nobody looks.

    The first of a name counts: where a loss judges labelled and then unlabelled images, that is the labelled ones.
    """
    if _collectors and name not in _collectors[-1]:
        with torch.no_grad():
            _collectors[-1][name] = measure()


def watch_range(name: str, x: Tensor) -> None:
    """Note the smallest and the largest value of maps (B, 1, H, W), and the mean of the images' medians.

    So equal parts of a batch have the numbers of the whole.
    """
    watch(f"{name}/min", lambda: x.amin())
    watch(f"{name}/median", lambda: nanmedian(x[..., ::STRIDE, ::STRIDE].float().flatten(1))[0].mean())
    watch(f"{name}/max", lambda: x.amax())
