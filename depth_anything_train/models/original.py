"""The `.pth` files of the released code: bare weights under our names; only the file name states the rest.

V1 and V2 have equal names and shapes, and so have relative and metric models. Which blocks the decoder reads, and the
farthest depth of a metric model, are therefore taken from the file's name or given, and never guessed: weights with the
wrong blocks load without a word and give wrong depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from depth_anything_train.files import atomic_writer
from depth_anything_train.models.checkpoints import assemble
from depth_anything_train.models.depth_model import DepthModel, DepthModelConfig
from depth_anything_train.models.encoder import RELEASED, EncoderConfig, four, resolve_taps
from depth_anything_train.models.weights import plain_tensors, read_tensors
from depth_anything_train.runtime import UserError

HEAD_WIDTH = 64  # channels of an attention head in all released sizes; the weights do not show it
V1 = re.compile(r"depth_anything_vit[sblg](14)?")
V2 = re.compile(r"depth_anything_v2_vit[sblg]")
METRIC = re.compile(r"depth_anything_v2_metric_(hypersim|vkitti|\d+(?:\.\d+)?m)_vit[sblg]")
FARTHEST_M = {"hypersim": 20.0, "vkitti": 80.0}


def load_original(
    path: str | Path,
    *,
    name: str | None = None,
    taps: str | Sequence[int] | None = None,
    max_depth_m: float | None = None,
    num_heads: int | None = None,
) -> DepthModel:
    """A released `.pth`, or one in its layout.

    Args:
        path: the file; also `.safetensors` with the same names.
        name: released file name without ending, where the file has another one.
        taps: `last4` (V1), `spread` (V2) or four 0-based blocks; None takes them from a released file name.
        max_depth_m: farthest depth in metres of a metric model; None takes it from a released file name, and makes it
            a relative model where the name says nothing of metric.
        num_heads: attention heads of an encoder that is none of the released sizes.

    Raises:
        UserError: the file is unreadable or of another model, or its name does not say what has to be known.
    """
    path = Path(path)
    tensors = read_tensors(path)
    name = path.stem if name is None else name
    named_taps, named_depth = _from_name(name)
    taps = taps if taps is not None else named_taps
    max_depth_m = max_depth_m if max_depth_m is not None else named_depth
    if taps is None:
        raise UserError(
            f"The name {name} does not say whether this is a V1 or a V2 model, whose weights look alike: rename that "
            "file or folder as it was released, or give taps=last4 for V1, taps=spread for V2. "
            + _where_to_give("taps", path)
        )
    if max_depth_m is None and "metric" in name:
        raise UserError(
            f"{name} looks like a metric model: give max_depth_m, the farthest depth in metres. "
            + _where_to_give("max_depth_m", path)
        )
    config = _config_of(tensors, taps=taps, max_depth_m=max_depth_m, num_heads=num_heads, source=str(path))
    return assemble(config, tensors, source=str(path))


def save_original(folder: str | Path, model: DepthModel) -> Path:
    """Write the weights into `folder` under the name that the released code would look for; returns the file.

    A model with blocks of neither V1 nor V2 gets a name that does not hide it, and has to be loaded with `taps=`.

    Raises:
        UserError: the model has bins, or is of no released size: a file would not say what the released code, and
            `load_original`, know of those alone.
    """
    encoder = model.config.encoder
    if encoder.embed_dim not in RELEASED or encoder.num_heads * HEAD_WIDTH != encoder.embed_dim:
        raise UserError(
            f"Expected a model of a released size ({', '.join(RELEASED.values())}) for the released layout, but got "
            f"{encoder.name} with {encoder.embed_dim} channels in {encoder.num_heads} heads, which the released code "
            "cannot build; save it as hf or native."
        )
    if model.config.bins is not None:
        raise UserError(
            "Expected a model without bins for the released layout: the released metric code of V1 has other names "
            "for them; save it as native."
        )
    path = Path(folder) / f"{original_name(model.config)}.pth"
    with atomic_writer(path) as file:
        torch.save(plain_tensors(model), file)
    return path


def original_name(config: DepthModelConfig) -> str:
    """File name without ending, such as `depth_anything_vits14` or `depth_anything_v2_metric_20m_vits`."""
    size = RELEASED.get(config.encoder.embed_dim, config.encoder.name)
    if config.encoder.taps == resolve_taps("spread", config.encoder.depth):
        metric = "" if config.max_depth_m is None else f"metric_{config.max_depth_m:g}m_"
        return f"depth_anything_v2_{metric}{size}"
    if config.encoder.taps == resolve_taps("last4", config.encoder.depth) and config.max_depth_m is None:
        return f"depth_anything_{size}{config.encoder.patch_size}"
    return f"depth_anything_{'metric_' if config.kind == 'metric' else ''}custom_{size}"


def _where_to_give(key: str, path: Path) -> str:
    """Most commands know a model by one name alone, and have no key for what it leaves out."""
    return (
        f"The command export and, in Python, from_pretrained take {key}=; other commands take the folder that is "
        f"written by: depth-anything export model={path} {key}=... format=native out=FOLDER"
    )


def _from_name(stem: str) -> tuple[str | None, float | None]:
    """Taps and farthest depth that a released file name states."""
    if match := METRIC.fullmatch(stem):
        return "spread", FARTHEST_M.get(match[1]) or float(match[1].rstrip("m"))
    if V2.fullmatch(stem):
        return "spread", None
    return ("last4" if V1.fullmatch(stem) else None), None


def _config_of(
    tensors: Mapping[str, Tensor],
    *,
    taps: str | Sequence[int],
    max_depth_m: float | None,
    num_heads: int | None,
    source: str,
) -> DepthModelConfig:
    """What the shapes of the weights say about the model, and what was given."""
    try:
        embed_dim = tensors["pretrained.cls_token"].shape[-1]
        positions = tensors["pretrained.pos_embed"].shape[1] - 1
        patch_size = tensors["pretrained.patch_embed.proj.weight"].shape[-1]
        features = tensors["depth_head.scratch.layer1_rn.weight"].shape[0]
        out_channels = four("out_channels", [tensors[f"depth_head.projects.{i}.weight"].shape[0] for i in range(4)])
    except (KeyError, IndexError) as error:
        likely = "; a metric model of V1 is a ZoeDepth model, which this cannot be" if _is_zoe(tensors) else ""
        raise UserError(
            f"Expected weights of a Depth Anything model in {source}, but {error} is not among them{likely}."
        ) from None
    depth = sum(name.startswith("pretrained.blocks.") and name.endswith(".ls1.gamma") for name in tensors)
    if num_heads is None and embed_dim not in RELEASED:
        raise UserError(
            f"The encoder in {source} has {embed_dim} channels, which is no released size: give num_heads as well. In "
            "Python from_pretrained takes it, and save_pretrained writes a folder that the commands take."
        )
    encoder = EncoderConfig(
        name=RELEASED.get(embed_dim, "custom"),
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads or embed_dim // HEAD_WIDTH,
        ffn="swiglu" if "pretrained.blocks.0.mlp.w12.weight" in tensors else "mlp",
        taps=resolve_taps(taps, depth),
        patch_size=patch_size,
        image_size=math.isqrt(positions) * patch_size,
        position="dinov2",
    )
    return DepthModelConfig(
        encoder=encoder,
        features=features,
        out_channels=out_channels,
        kind="relative" if max_depth_m is None else "metric",
        max_depth_m=max_depth_m,
    )


def _is_zoe(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("core.core.") for name in tensors)
