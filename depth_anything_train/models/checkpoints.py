"""Weights on disk: a model folder of our own, and DINOv2 encoders from elsewhere. Strict, and never a pickle."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from depth_anything_train.models.depth_model import DepthModel, DepthModelConfig
from depth_anything_train.models.encoder import DinoV2Encoder
from depth_anything_train.ops.positions import resample_positions
from depth_anything_train.runtime import UserError, read_json, require_folder, write_bytes, write_json

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
HUB_NAMES = {f"vit{size[0]}": f"vit_{size}_patch14_dinov2.lvd142m" for size in ("small", "base", "large", "giant")}


# -- A model folder. ---------------------------------------------------------------------------------------------------


def save_model(folder: str | Path, model: DepthModel, extra: Mapping[str, Any] | None = None) -> Path:
    """Write `model.safetensors` and, last, `model.json`: the configuration with its taps, the weights' hash, `extra`.

    Each file appears whole or not at all; the same weights give the same bytes. Returns the folder.
    """
    folder = Path(folder)
    tensors = _plain_tensors(model)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    description = {"schema": 1, "config": model.config.to_dict(), "sha256": _hash(tensors), "extra": dict(extra or {})}
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
    with torch.device("meta"):  # no random weights that would be thrown away
        model = DepthModel(config)
    load_strict(model, tensors, source=str(folder / WEIGHTS), assign=True)
    if _hash(tensors) != description.get("sha256"):
        raise UserError(
            f"Expected the weights that {folder / DESCRIPTION} describes, but {WEIGHTS} has another hash: "
            "it is damaged or of another save; save the model again."
        )
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
            f"Expected a model description of schema 1 in {Path(folder) / DESCRIPTION}, got something else; "
            "is it a model folder written by this program?"
        )
    return content


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, wherever they are and however they lie in memory."""
    return _hash(_plain_tensors(model))


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# -- An encoder from elsewhere. ----------------------------------------------------------------------------------------


def load_encoder(encoder: DinoV2Encoder, source: str | Path) -> None:
    """Load DINOv2 weights into an encoder, in place; a position embedding of another grid is resampled.

    Args:
        encoder: of the same size as the weights.
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
            f"Expected an encoder of size {', '.join(HUB_NAMES)} for the hub, got {size}; "
            "choose one of them, or give the file of its weights."
        )
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
    prefix = "pretrained."
    if any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if encoder.config.ffn == "swiglu":
        tensors = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in tensors.items()}
    adapted = {"mask_token": encoder.mask_token.detach(), **tensors}
    positions, side = adapted.get("pos_embed"), encoder.config.image_size // encoder.config.patch_size
    count = positions.shape[1] - 1 if positions is not None and positions.ndim == 3 else 0
    if positions is not None and count > 0 and math.isqrt(count) ** 2 == count:
        adapted["pos_embed"] = resample_positions(positions, (side, side), encoder.config.position)
    return adapted


# -- Reading and fitting. ----------------------------------------------------------------------------------------------


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a `.pth` or `.pt` file that holds tensors and nothing that could run.

    A file that nests the weights under `state_dict` or `model` is opened.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        state = "is a folder; name the file in it" if path.is_dir() else "does not exist; check the path"
        raise UserError(f"Expected weights in the file {path}, which {state}.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises whatever it likes on bytes that are none
        raise _unreadable(path, error) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise _unreadable(path, "it holds something else than named tensors")
    return content


def _unreadable(path: Path, reason: object) -> UserError:
    first_line = str(reason).strip().partition("\n")[0].partition(". ")[0]
    return UserError(
        f"Expected weights (a .safetensors file, or a .pth of tensors alone) in {path}, but it cannot be read: "
        f"{first_line}; download or save it again."
    )


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, assign: bool = False) -> None:
    """Load weights into a module: same names, same shapes; the numbers are cast to the module's type.

    Args:
        module: whose weights are replaced.
        tensors: all its weights and nothing else.
        source: where they come from, for the message.
        assign: take the tensors themselves instead of copying, for a module without memory of its own.

    Raises:
        UserError: a name or a shape differs; names the likely cause. The module is unchanged.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if missing or unexpected or reshaped:
        raise UserError(_mismatch(own, tensors, missing, unexpected, reshaped, source))
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}, assign=assign)


def _mismatch(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
    source: str,
) -> str:
    parts = [
        f"{len(names)} {kind} (first {names[0]})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    return f"Expected weights of this model in {source}, but {', '.join(parts)}: {_likely_cause(own, tensors)}."


def _likely_cause(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    width, own_width = (_width(weights) for weights in (tensors, own))
    depth, own_depth = (sum(name.endswith("ls1.gamma") for name in weights) for weights in (tensors, own))
    has_head, needs_head = (any(name.startswith("depth_head.") for name in weights) for weights in (tensors, own))
    if any(name.startswith("backbone.") for name in tensors):
        return "it has the names of the transformers library; load it as a Hugging Face folder"
    if any(name.startswith(("module.", "model.", "optimizer")) for name in tensors):
        return "it looks like a training checkpoint; use the model folder that was saved beside it"
    if width == 0:
        return "it is no model of this family"
    if (width, depth) != (own_width, own_depth):
        sizes = f"{width} channels and {depth} blocks instead of {own_width} and {own_depth}"
        return f"it is a model of another size, {sizes}; choose model= to fit"
    if any(name.endswith("register_tokens") for name in tensors):
        return "it is a DINOv2 with registers; use the one without"
    if needs_head and not has_head:
        return "it is an encoder alone; load it as encoder weights"
    return "it is of the same family but built otherwise; compare its model.json with the model= you chose"


def _width(tensors: Mapping[str, Tensor]) -> int:
    return next((tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("cls_token")), 0)
