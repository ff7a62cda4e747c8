"""Weights: read without running anything in them, hashed, fitted strictly, and kept beside what describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from depth_anything_train.files import json_bytes, read_json, write_bytes
from depth_anything_train.runtime import UserError

BLOCK_ENDINGS = ("ls1.gamma", "layer_scale1.lambda1")
"""What a block has one of, here and in transformers."""
DDP = "module."
HEADS = ("depth_head.", "head.")

SCHEMA = 1
"""Version of the descriptions in model folders."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a `.pth` or `.pt` file that holds tensors and nothing that could run.

    A file that nests the weights under `state_dict` or `model` is opened, and the `module.` that DDP puts before all
    names is left out.

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
    wrapped = all(str(name).startswith(DDP) for name in content)
    return {name.removeprefix(DDP): tensor for name, tensor in content.items()} if wrapped else content


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
    require_same_names(own, tensors, source=source)
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}, assign=assign)


def require_same_names(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse weights whose names or shapes are not those of a model's `own`; `source` is where they come from.

    Raises:
        UserError: they differ; names the likely cause.
    """
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    parts = [
        f"{len(names)} {kind} (first {names[0]})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if parts:
        raise UserError(
            f"Expected weights of this model in {source}, but {', '.join(parts)}: {_likely_cause(own, tensors)}."
        )


def _likely_cause(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    width, own_width = (_width(weights) for weights in (tensors, own))
    depth, own_depth = (sum(name.endswith(BLOCK_ENDINGS) for name in weights) for weights in (tensors, own))
    has_head, needs_head = (any(name.startswith(HEADS) for name in weights) for weights in (tensors, own))
    if any(name.startswith("backbone.") for name in tensors) and not any(name.startswith("backbone.") for name in own):
        return "it has the names of the transformers library; load it as a Hugging Face folder"
    if any(name.startswith((DDP, "model.", "optimizer")) for name in tensors):
        return "it looks like a training checkpoint; use the model folder that was saved beside it"
    if width == 0:
        return "it is no model of this family"
    if (width, depth) != (own_width, own_depth):
        sizes = f"{width} channels and {depth} blocks instead of {own_width} and {own_depth}"
        return f"it is a model of another size, {sizes}; choose the one that fits"
    if any(name.endswith("register_tokens") for name in tensors):
        return "it is a DINOv2 with registers; use the one without"
    if needs_head and not has_head:
        return "it is an encoder alone; load it as encoder weights"
    return "it is of the same family but built otherwise; compare its configuration with this model's"


def _width(tensors: Mapping[str, Tensor]) -> int:
    return next((tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("cls_token")), 0)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all weights, wherever they are and however they lie in memory."""
    return hash_tensors(plain_tensors(model))


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU, in plain memory order, whatever device and layout they have."""
    # Flat and back: `contiguous` alone leaves odd strides where a side is 1, and torch.save would write them.
    return {name: x.detach().cpu().contiguous().flatten().view(x.shape) for name, x in model.state_dict().items()}


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FolderFiles(NamedTuple):
    """Names of the files of a model folder: its weights, and what describes them, which is written last."""

    weights: str
    description: str


def write_folder(folder: str | Path, files: FolderFiles, model: nn.Module, description: Mapping[str, Any]) -> Path:
    """Write the weights and, last, the description with their hash as `sha256` and its `schema`; returns the folder.

    Each file appears whole or not at all; the same weights give the same bytes.
    """
    folder, tensors = Path(folder), plain_tensors(model)
    about = json_bytes({"schema": SCHEMA, **description, "sha256": hash_tensors(tensors)})  # before anything is written
    write_bytes(folder / files.weights, safetensors.torch.save(tensors))
    write_bytes(folder / files.description, about)
    return folder


def find_folder(path: Path, files: FolderFiles) -> Path | None:
    """The folder that holds both files: this one, or the folder `model` of this run."""
    places = (path, path / "model")
    return next((place for place in places if all((place / name).is_file() for name in files)), None)


def read_folder(folder: Path, files: FolderFiles) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description (schema, config, sha256, extra) and the weights that belong to it.

    Raises:
        UserError: a file is missing or damaged, the weights are others, or another version wrote the description.
    """
    description = read_json(
        folder / files.description, keys={"schema": int, "config": dict, "sha256": str, "extra": dict}
    )
    if description["schema"] != SCHEMA:
        raise UserError(
            f"Expected a model description of schema {SCHEMA} in {folder / files.description}, but got schema "
            f"{description['schema']}; was it written by another version?"
        )
    tensors = read_tensors(folder / files.weights)
    if hash_tensors(tensors) != description["sha256"]:
        raise UserError(
            f"Expected the weights that {folder / files.description} describes, but {files.weights} has another hash: "
            "it is damaged or of another model; save or copy the folder again."
        )
    return description, tensors
