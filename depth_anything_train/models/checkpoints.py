"""Our own models on disk: a model folder, and the checkpoint of a training run. Strict, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depth_anything_train.files import require_folder
from depth_anything_train.models.depth_model import RELEASED_SIZE, DepthModel, DepthModelConfig
from depth_anything_train.models.weights import FolderFiles, load_strict, read_folder, write_folder
from depth_anything_train.runtime import UserError

FILES = FolderFiles("model.safetensors", "model.json")


def save_model(folder: str | Path, model: DepthModel, extra: Mapping[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and, last, `model.json`: the configuration with its taps, the weights' hash, `extra`.

    Each file appears whole or not at all; the same weights give the same bytes. Returns the folder.
    """
    return write_folder(folder, FILES, model, describe(model, extra))


def load_model(folder: str | Path) -> tuple[DepthModel, dict[str, Any]]:
    """The model that `save_model` wrote, on the CPU and in eval mode, and what is on record about it.

    Raises:
        UserError: folder or files are missing, damaged, of different models, or of another version.
    """
    folder = require_folder(folder, what="a saved model")
    description, tensors = read_folder(folder, FILES)
    config = DepthModelConfig.from_dict(description["config"])
    model = assemble(config, tensors, source=str(folder / FILES.weights))
    return model, {"size": RELEASED_SIZE, **description["extra"]}


def describe(model: DepthModel, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a file says about its model, so that it can be loaded without the config of the run."""
    return {"config": model.config.to_dict(), "extra": dict(extra or {})}


def load_checkpoint(path: str | Path) -> tuple[DepthModel, dict[str, Any]]:
    """The depth model of a training checkpoint, on the CPU and in eval mode, and what is on record about it.

    Raises:
        UserError: the file is missing, damaged, or of a run that trains no depth model.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"Expected a checkpoint at {path}, but there is no such file; check the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        about, state = content["depth_model"], content["state_dict"]
    except Exception as error:  # pickle raises whatever it likes on bytes that are none
        reason = "it names no depth model" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"Expected a checkpoint of a teacher or a student in {path}, but {reason}.") from None
    tensors = {
        name.removeprefix("model."): tensor.clone() for name, tensor in state.items() if name.startswith("model.")
    }
    model = assemble(DepthModelConfig.from_dict(about["config"]), tensors, source=str(path))
    return model, {"size": RELEASED_SIZE, **about["extra"]}


def assemble(config: DepthModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> DepthModel:
    """A model of exactly these weights, on their device and in eval mode; `source` is named where they do not fit.

    Raises:
        UserError: a name or a shape differs.
    """
    with torch.device("meta"):  # no random weights that would be thrown away
        model = DepthModel(config)
    load_strict(model, tensors, source=source, assign=True)
    return model.eval()
