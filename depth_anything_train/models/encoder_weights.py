"""Weights of encoders alone: DINOv2's read into one of ours from a file or the hub, and ours written for others."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from torch import Tensor

from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.models.weights import FolderFiles, load_strict, read_tensors, write_folder
from depth_anything_train.ops.positions import resample_positions
from depth_anything_train.runtime import UserError
from depth_anything_train.types import ENCODER

FILES = FolderFiles("encoder.safetensors", "encoder.json")
HUB_NAMES = {f"vit{size[0]}": f"vit_{size}_patch14_dinov2.lvd142m" for size in ("small", "base", "large", "giant")}


def load_encoder(encoder: DinoV2Encoder, source: str | Path) -> None:
    """Load DINOv2 weights into an encoder, in place; a position embedding of another grid is resampled.

    Args:
        encoder: an encoder of the same size as the weights.
        source: a `.safetensors` or `.pth` file of DINOv2 or of a whole Depth Anything model; `world`, the encoder that
            ships with this package, pre-trained on the procedural world; `hub`, the DINOv2 weights of the encoder's
            size, downloaded by timm; or `hub:NAME` with any name that timm takes.

    Raises:
        UserError: the source is missing, unreadable or of another model.
    """
    source = str(source)
    if source == "hub" or source.startswith("hub:"):
        tensors = _from_timm(encoder.config.name, source.partition(":")[2])
    elif source == "world":
        tensors = _from_package()
    else:
        tensors = read_tensors(Path(source).expanduser())
    load_strict(encoder, _as_encoder(tensors, encoder), source=source)


def _from_timm(size: str, name: str) -> dict[str, Tensor]:
    name = name or HUB_NAMES.get(size, "")
    if not name:
        raise UserError(
            f"Expected an encoder of size {', '.join(HUB_NAMES)} for the hub, but got {size}; "
            "choose one of them, or give the file of its weights."
        )
    import timm  # here, for it takes seconds and loads a compiler

    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Expected the weights {name} from the hub, but they could not be had ({error}); "
            "check name and connection, or give a file that you have downloaded."
        ) from error


def _from_package() -> dict[str, Tensor]:
    with as_file(files("depth_anything_train") / "assets" / "world_encoder.safetensors") as path:
        if not path.is_file():
            raise UserError(
                "Expected the world encoder in this installation, but it is missing; "
                "train it with `depth-anything train experiment=world_pretrain` and give its file."
            )
        return read_tensors(path)


def _as_encoder(tensors: Mapping[str, Tensor], encoder: DinoV2Encoder) -> dict[str, Tensor]:
    """Bring other layouts to ours: a whole model's prefix, timm's names, timm's missing mask token, another grid."""
    if any(name.startswith(ENCODER) for name in tensors):
        tensors = {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
    if encoder.config.ffn == "swiglu":
        tensors = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in tensors.items()}
    adapted = {"mask_token": encoder.mask_token.detach(), **tensors}
    positions, side = adapted.get("pos_embed"), encoder.config.image_size // encoder.config.patch_size
    count = positions.shape[1] - 1 if positions is not None and positions.ndim == 3 else 0
    if positions is not None and count > 0 and math.isqrt(count) ** 2 == count:
        adapted["pos_embed"] = resample_positions(positions, (side, side), encoder.config.position)
    return adapted


def save_encoder(folder: str | Path, encoder: DinoV2Encoder, extra: Mapping[str, Any]) -> Path:
    """Write `encoder.safetensors` in half precision and, last, `encoder.json`; returns the folder.

    Half precision is enough for weights that training goes on from, and halves what a package carries.
    """
    description = {"config": asdict(encoder.config), "extra": dict(extra)}
    return write_folder(folder, FILES, copy.deepcopy(encoder).half(), description)
