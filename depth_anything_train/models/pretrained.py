"""Where a model starts: pre-trained encoders handed to models, and encoders written for others to start from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from depth_anything_train.models.checkpoints import load_encoder, weights_hash
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.runtime import console, write_bytes, write_json


def initialise_encoder(model: DepthModel, source: str | Path) -> None:
    """Load the encoder's weights from `source` (see `load_encoder`); `none` leaves the random ones.

    Raises:
        UserError: the source is missing or of another model.
    """
    if source == "none":
        console.print("encoder=none: the encoder starts from random weights.", style="yellow")
    else:
        load_encoder(model.pretrained, source)


def pretrained_encoder(model: DepthModel, source: str | Path) -> DinoV2Encoder:
    """The encoder of `model` with weights from `source`, to be the frozen reference of feature alignment.

    Raises:
        UserError: the source is missing or of another model.
    """
    initialise_encoder(model, source)
    return model.pretrained


def save_encoder(folder: str | Path, encoder: DinoV2Encoder, extra: Mapping[str, Any]) -> Path:
    """Write `encoder.safetensors` in half precision and, last, `encoder.json`; returns the folder.

    Half precision is enough for weights that training goes on from, and halves what a package carries.
    """
    folder, half = Path(folder), copy.deepcopy(encoder).half()
    tensors = {name: tensor.contiguous() for name, tensor in half.state_dict().items()}
    write_bytes(folder / "encoder.safetensors", safetensors.torch.save(tensors))
    description = {"config": asdict(encoder.config), "sha256": weights_hash(half), "extra": dict(extra)}
    write_json(folder / "encoder.json", description)
    return folder
