"""Our names of weights and those that transformers writes to disk, in versions 4 and 5 alike.

Query, key and value are three tensors there and one here; everything else is a change of names, so a round trip gives
the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from depth_anything_train.models.depth_model import DepthModelConfig


def to_hf_names(tensors: Mapping[str, Tensor], config: DepthModelConfig) -> dict[str, Tensor]:
    """Our weights under the names of transformers."""
    names, renamed = dict(_names(config)), {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.partition(".attn.qkv.")
        if leaf:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                # A copy: safetensors takes no two names for parts of one memory.
                renamed[f"{names[layer]}.attention.attention.{part}.{leaf}"] = piece.clone()
        else:
            renamed[_rename(name, names)] = tensor
    return renamed


def from_hf_names(tensors: Mapping[str, Tensor], config: DepthModelConfig) -> dict[str, Tensor]:
    """Weights under the names of transformers under ours; names that it does not know stay as they are."""
    names = {theirs: ours for ours, theirs in _names(config)}
    renamed, parts = {}, dict[str, dict[str, Tensor]]()
    for name, tensor in tensors.items():
        layer, _, rest = name.partition(".attention.attention.")
        if rest and layer in names:
            part, _, leaf = rest.partition(".")
            parts.setdefault(f"{names[layer]}.attn.qkv.{leaf}", {})[part] = tensor
        else:
            renamed[_rename(name, names)] = tensor
    for name, thirds in parts.items():
        if thirds.keys() == {"query", "key", "value"}:
            renamed[name] = torch.cat([thirds["query"], thirds["key"], thirds["value"]])
    return renamed


def _rename(name: str, names: Mapping[str, str]) -> str:
    module, _, leaf = name.rpartition(".")
    return names.get(name) or (f"{names[module]}.{leaf}" if module in names else name)


def _names(config: DepthModelConfig) -> Iterator[tuple[str, str]]:
    """(ours, theirs) of every module, and of every tensor that stands alone."""
    ours, theirs = "pretrained", "backbone"
    for name in ("cls_token", "mask_token"):
        yield f"{ours}.{name}", f"{theirs}.embeddings.{name}"
    yield f"{ours}.pos_embed", f"{theirs}.embeddings.position_embeddings"
    yield f"{ours}.patch_embed.proj", f"{theirs}.embeddings.patch_embeddings.projection"
    yield f"{ours}.norm", f"{theirs}.layernorm"
    mlp = {"mlp": ("fc1", "fc2", "fc1", "fc2"), "swiglu": ("w12", "w3", "weights_in", "weights_out")}
    mlp_in, mlp_out, hf_in, hf_out = mlp[config.encoder.ffn]
    for block in range(config.encoder.depth):
        ours, theirs = f"pretrained.blocks.{block}", f"backbone.encoder.layer.{block}"
        yield ours, theirs
        yield f"{ours}.attn.proj", f"{theirs}.attention.output.dense"
        yield f"{ours}.mlp.{mlp_in}", f"{theirs}.mlp.{hf_in}"
        yield f"{ours}.mlp.{mlp_out}", f"{theirs}.mlp.{hf_out}"
        for number in (1, 2):
            yield f"{ours}.norm{number}", f"{theirs}.norm{number}"
            yield f"{ours}.ls{number}.gamma", f"{theirs}.layer_scale{number}.lambda1"
    ours, theirs = "depth_head", "neck"
    for level in range(4):
        yield f"{ours}.projects.{level}", f"{theirs}.reassemble_stage.layers.{level}.projection"
        yield f"{ours}.resize_layers.{level}", f"{theirs}.reassemble_stage.layers.{level}.resize"
        yield f"{ours}.scratch.layer{level + 1}_rn", f"{theirs}.convs.{level}"
        # Levels are counted from 1 here, and fusion layers from the deepest there.
        fusion, hf_fusion = f"{ours}.scratch.refinenet{level + 1}", f"{theirs}.fusion_stage.layers.{3 - level}"
        yield f"{fusion}.out_conv", f"{hf_fusion}.projection"
        for unit in (1, 2):
            for conv in (1, 2):
                yield f"{fusion}.resConfUnit{unit}.conv{conv}", f"{hf_fusion}.residual_layer{unit}.convolution{conv}"
    yield "depth_head.scratch.output_conv1", "head.conv1"
    yield "depth_head.scratch.output_conv2.0", "head.conv2"
    yield "depth_head.scratch.output_conv2.2", "head.conv3"
