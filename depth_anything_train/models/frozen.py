"""A frozen network: eval mode, no gradients, not among the parent's parameters or in its state dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a module in eval mode and without gradients, for ever, and keeps it out of its parent's weights.

    `.train()` of the parent does not reach it, `.to()` does. It has no parameters of its own, so optimisers, DDP,
    checkpoints and strict loading of the parent go on as if it were not there.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Past nn.Module's registry: what is not registered is neither saved, nor loaded, nor trained.
        self.__dict__["module"] = module.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns, detached."""
        return self.module(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.module._apply(fn, recurse)
        return cast(Frozen, super()._apply(fn, recurse))
