"""Our own models on disk: a model folder, and the checkpoint of a training run. Strict, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from depth_anything_train.files import read_json, require_folder, write_bytes, write_json
from depth_anything_train.models.depth_model import RELEASED_SIZE, DepthModel, DepthModelConfig
from depth_anything_train.models.weights import hash_tensors, load_strict, plain_tensors, read_tensors
from depth_anything_train.runtime import UserError

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(folder: str | Path, model: DepthModel, extra: Mapping[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and, last, `model.json`: the configuration with its taps, the weights' hash, `extra`.

    Each file appears whole or not at all; the same weights give the same bytes. Returns the folder.
    """
    folder = Path(folder)
    tensors = plain_tensors(model)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    description = {
        "schema": 1,
        "config": model.config.to_dict(),
        "sha256": hash_tensors(tensors),
        "extra": dict(extra or {}),
    }
    write_json(folder / DESCRIPTION, description)
    return folder


def load_model(folder: str | Path) -> DepthModel:
    """Build the model that `save_model` wrote, on the CPU and in eval mode; every weight must fit.

    Raises:
        UserError: folder or files are missing, damaged, of different models, or of another version.
    """
    folder = require_folder(folder, what="a saved model")
    description = read_description(folder)
    config = DepthModelConfig.from_dict(description["config"])
    tensors = read_tensors(folder / WEIGHTS)
    model = assemble(config, tensors, source=str(folder / WEIGHTS))
    if hash_tensors(tensors) != description.get("sha256"):
        raise UserError(
            f"Expected the weights that {folder / DESCRIPTION} describes, but {WEIGHTS} has another hash: "
            "it is damaged or of another save; save the model again."
        )
    return model


def describe(model: DepthModel, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a training checkpoint says about its model, so that it can be loaded without the run's config."""
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


def read_description(folder: str | Path) -> dict[str, Any]:
    """The content of a model folder's `model.json`: schema, config, sha256, extra.

    Raises:
        UserError: it is missing, damaged or no description of a model.
    """
    content = read_json(Path(folder) / DESCRIPTION)
    parts = [content.get("config"), content.get("extra", {})] if isinstance(content, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or content.get("schema") != 1:
        raise UserError(
            f"Expected a model description of schema 1 in {Path(folder) / DESCRIPTION}, but got something else; "
            "is it a model folder written by this program?"
        )
    return content
