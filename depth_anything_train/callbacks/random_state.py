"""The state of all random numbers, in the checkpoint: a continued run draws the numbers that come next."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class RandomState(Callback):
    """Saves and restores the generators of Python, NumPy, torch and the device.

    A checkpoint holds those of rank zero, for all: ranks are seeded alike, and their number may change. (The loader
    needs none of this, its numbers are functions of position; this is for what draws in a model, on all ranks alike.)
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, which `weights_only=True` reads."""
        version, numbers, gauss = random.getstate()
        numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
        key = numpy_state["state"]["key"].tolist()
        return {
            "python": [version, list(numbers), gauss],
            "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts: what is still being set up may draw."""
        self._loaded = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state from the checkpoint."""
        state, self._loaded = self._loaded, None
        if state is None:
            return
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        numpy_state = state["numpy"]
        key = np.array(numpy_state["state"]["key"], np.uint32)
        np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["cuda"])
