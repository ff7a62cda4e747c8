"""The folder that the transformers library calls a Depth Anything model, read and written without that library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from depth_anything_train.files import read_json, write_bytes, write_json
from depth_anything_train.models.block import NORM_EPS
from depth_anything_train.models.depth_model import RELEASED_SIZE, DepthModel, DepthModelConfig
from depth_anything_train.models.encoder import RELEASED, EncoderConfig, Four, four
from depth_anything_train.models.hf_names import from_hf_names, to_hf_names
from depth_anything_train.models.weights import load_strict, plain_tensors, read_tensors, require_same_names
from depth_anything_train.ops.normalisation import IMAGENET_MEAN, IMAGENET_STD
from depth_anything_train.runtime import UserError

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
CARD = "README.md"
TYPE = "depth_anything"
"""What transformers calls the kind of model."""
MEND = "download or save the folder again"

# A config may leave out what has its default value; these are transformers' defaults.
DEFAULTS = {
    "depth_estimation_type": "relative",
    "fusion_hidden_size": 64,
    "neck_hidden_sizes": [48, 96, 192, 384],
}
BACKBONE_DEFAULTS = {
    "hidden_size": 768,
    "image_size": 224,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "use_swiglu_ffn": False,
}
# What could be configured there and is fixed here.
PROCESSOR_FIXED: dict[str, tuple[Any, Any]] = {
    "do_normalize": (True, True),
    "do_pad": (False, False),
    "do_rescale": (True, True),
    "do_resize": (True, True),
    "image_mean": (list(IMAGENET_MEAN), [0.5, 0.5, 0.5]),
    "image_std": (list(IMAGENET_STD), [0.5, 0.5, 0.5]),
    "resample": (3, 3),  # bicubic
    "rescale_factor": (1 / 255, 1 / 255),
}
"""How we prepare photographs, and what transformers' processor does where its file does not say."""

FIXED = {"head_hidden_size": 32, "head_in_index": -1, "reassemble_factors": [4, 2, 1, 0.5]}
BACKBONE_FIXED = {
    "apply_layernorm": True,
    "hidden_act": "gelu",
    "layer_norm_eps": NORM_EPS,
    "mlp_ratio": 4,
    "num_channels": 3,
    "qkv_bias": True,
}


def load_hf(folder: str | Path) -> tuple[DepthModel, int | list[int]]:
    """The model of a Hugging Face folder, and the shorter side in pixels at which its processor shows it a photograph.

    A processor that does not keep the aspect gives [height, width] instead.

    Positions are resampled as transformers does, so that the numbers are those of transformers.

    Raises:
        UserError: it is no Depth Anything model, a file is missing or damaged, or the weights do not fit.
    """
    folder = Path(folder)
    config = config_from_hf(read_json(folder / CONFIG, mend=MEND), source=str(folder / CONFIG))
    tensors, source = read_tensors(folder / WEIGHTS), str(folder / WEIGHTS)
    with torch.device("meta"):  # no random weights that would be thrown away
        model = DepthModel(config)
    expected = to_hf_names(model.state_dict(), config)
    require_same_names(expected, tensors, source=source)  # before they are renamed: in the file's own names
    load_strict(model, from_hf_names(tensors, config), source=source, assign=True)
    return model.eval(), _processor_size(folder, config.encoder.patch_size)


def save_hf(folder: str | Path, model: DepthModel, *, size: int | Sequence[int], card: str) -> Path:
    """Write the folder that `DepthAnythingForDepthEstimation.from_pretrained` and its processor load.

    Args:
        folder: gets weights, processor, README.md and, last, config.json.
        model: any of ours.
        size: shorter side in pixels at which the processor shows it a photograph, or (height, width).
        card: text of README.md.

    Raises:
        UserError: a metric model has bins, or its farthest depth is no whole number: transformers cannot take it; or
            the folder is another project's.
    """
    folder, config = Path(folder), config_to_hf(model.config)
    if other := _others_file(folder):
        raise UserError(f"Expected a folder for the model alone, but {folder} holds another {other}; name a new one.")
    tensors = to_hf_names(plain_tensors(model), model.config)
    processor = processor_of(model.config, size)
    (folder / CONFIG).unlink(missing_ok=True)  # that of another model would fit these weights, with other taps
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_json(folder / PROCESSOR, processor)
    write_bytes(folder / CARD, card.encode())
    write_json(folder / CONFIG, config)
    return folder


def _others_file(folder: Path) -> str | None:
    """A file that a model would write over and that is none of such a model."""
    has_weights = (folder / WEIGHTS).exists()
    if not (folder / CONFIG).exists():  # which is written last, so that only the weights tell of one that broke off
        return CARD if (folder / CARD).exists() and not has_weights else None
    try:
        content = json.loads((folder / CONFIG).read_bytes())
    except ValueError:
        return None if has_weights else CONFIG
    return None if isinstance(content, dict) and content.get("model_type") == TYPE else CONFIG


def config_to_hf(config: DepthModelConfig) -> dict[str, Any]:
    """The content of `config.json`; blocks are counted from 1 there, as 0 is the embedding.

    Raises:
        UserError: as `save_hf`.
    """
    if config.bins is not None:
        raise UserError(
            "Expected a model without bins for a Hugging Face folder: transformers has metric bins only in ZoeDepth, "
            "whose decoder enlarges patches of 16 pixels by twos and cannot be this one with patches of "
            f"{config.encoder.patch_size}; save it as native, or train with a bounded head (model.bins=null "
            "optim=adamw)."
        )
    encoder = config.encoder
    taps = [tap + 1 for tap in encoder.taps]
    backbone = {
        **BACKBONE_FIXED,
        "model_type": "dinov2",
        "hidden_size": encoder.embed_dim,
        "image_size": encoder.image_size,
        "num_attention_heads": encoder.num_heads,
        "num_hidden_layers": encoder.depth,
        "out_features": [f"stage{tap}" for tap in taps],
        "out_indices": taps,
        "patch_size": encoder.patch_size,
        "reshape_hidden_states": False,
        "use_swiglu_ffn": encoder.ffn == "swiglu",
    }
    return {
        **FIXED,
        "architectures": ["DepthAnythingForDepthEstimation"],
        "model_type": TYPE,
        "backbone_config": backbone,
        "depth_estimation_type": config.kind,
        "fusion_hidden_size": config.features,
        "max_depth": _whole_metres(config.max_depth_m),
        "neck_hidden_sizes": list(config.out_channels),
        "patch_size": encoder.patch_size,
        "reassemble_hidden_size": encoder.embed_dim,
        "torch_dtype": "float32",
    }


def _whole_metres(max_depth_m: float | None) -> int:
    """The farthest depth as transformers takes it: from version 5 on only as a whole number."""
    if max_depth_m is not None and max_depth_m != int(max_depth_m):
        raise UserError(
            f"Expected whole metres as the farthest depth of a Hugging Face folder, but got {max_depth_m}; save this "
            "model as original or native."
        )
    return int(max_depth_m or 1)


def config_from_hf(content: Any, *, source: str) -> DepthModelConfig:
    """The configuration that a `config.json` states.

    Raises:
        UserError: it describes another model, or one that this decoder or encoder cannot be.
    """
    if not isinstance(content, dict) or content.get("model_type") != TYPE:
        kind = content.get("model_type") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"Expected a model of type depth_anything in {source}, but got {kind}; choose another model.")
    backbone = content.get("backbone_config")
    if not isinstance(backbone, dict) or backbone.get("model_type") != "dinov2":
        raise UserError(f"Expected a backbone_config of type dinov2 in {source}, but got {backbone!r}.")
    for part, fixed in ((content, FIXED), (backbone, BACKBONE_FIXED)):
        for key, value in fixed.items():
            if part.get(key, value) != value:
                raise UserError(f"Expected {key}={value} in {source}, but got {part[key]}; this model cannot be built.")
    top, vit = {**DEFAULTS, **content}, {**BACKBONE_DEFAULTS, **backbone}
    max_depth = top.get("max_depth")
    if top["depth_estimation_type"] == "relative" and max_depth not in (None, 1):
        raise UserError(
            f"{source} gives max_depth={max_depth} for a relative model; set max_depth=1, or the type to metric."
        )
    try:
        encoder = EncoderConfig(
            name=RELEASED.get(vit["hidden_size"], "custom"),
            embed_dim=vit["hidden_size"],
            depth=vit["num_hidden_layers"],
            num_heads=vit["num_attention_heads"],
            ffn="swiglu" if vit["use_swiglu_ffn"] else "mlp",
            taps=_taps(vit, source),
            patch_size=vit["patch_size"],
            image_size=vit["image_size"],
            position="transformers",
        )
        return DepthModelConfig(
            encoder=encoder,
            features=top["fusion_hidden_size"],
            out_channels=four("out_channels", top["neck_hidden_sizes"]),
            kind=top["depth_estimation_type"],
            max_depth_m=float(max_depth or 1) if top["depth_estimation_type"] == "metric" else None,
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"Expected numbers in {source}, but they cannot be used: {error}.") from None


def _taps(vit: Mapping[str, Any], source: str) -> Four:
    indices = vit.get("out_indices") or [str(name).removeprefix("stage") for name in vit.get("out_features") or ()]
    if not indices:
        raise UserError(f"Expected out_indices in {source}, the four blocks that the decoder reads, but it has none.")
    depth = vit["num_hidden_layers"]
    counted = [int(index) + depth + 1 if int(index) < 0 else int(index) for index in indices]  # 0 is the embedding
    if not all(0 < index <= depth for index in counted):
        raise UserError(f"Expected out_indices out of 1 to {depth} in {source}, but got {list(indices)}.")
    return four("taps", [index - 1 for index in counted])


def processor_of(config: DepthModelConfig, size: int | Sequence[int]) -> dict[str, Any]:
    """The content of `preprocessor_config.json`: shorter side to `size`, multiple of the patch, ImageNet's colours.

    For a pair (height, width) the photograph is stretched to it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return {
        **{key: ours for key, (ours, _) in PROCESSOR_FIXED.items()},
        "ensure_multiple_of": config.encoder.patch_size,
        "image_processor_type": "DPTImageProcessor",
        "keep_aspect_ratio": isinstance(size, int),
        "size": {"height": height, "width": width},
        "size_divisor": None,
    }


def _is_close(found: Any, value: Any) -> bool:
    """Whether numbers of a file, one or several, are those."""
    try:
        return np.shape(found) == np.shape(value) and np.allclose(np.asarray(found, float), value, rtol=1e-4)
    except (TypeError, ValueError):
        return False


def _processor_size(folder: Path, patch_size: int) -> int | list[int]:
    path = folder / PROCESSOR
    if not path.exists():
        return RELEASED_SIZE
    content = read_json(path, keys=("size",), mend=MEND)
    for key, (value, by_default) in {**PROCESSOR_FIXED, "ensure_multiple_of": (patch_size, 1)}.items():
        found = by_default if content.get(key) is None else content[key]
        if not _is_close(found, value):
            raise UserError(
                f"Expected {key}={value} in {path}, but got {found}; photographs are prepared in no other way."
            )
    size = content["size"]
    height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if not (isinstance(height, int) and isinstance(width, int)):
        raise UserError(f"Expected a size with height and width in {path}, but got {size!r}.")
    if not content.get("keep_aspect_ratio", False):
        return [height, width]
    if height != width:
        raise UserError(
            f"Expected equal height and width with keep_aspect_ratio in {path}, but got {height} x {width}."
        )
    return height
