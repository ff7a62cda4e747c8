"""The same numbers as the transformers library, on random weights that went through a mapping of names."""

import re

import pytest
import torch

from depth_anything_train.models.depth_model import build_depth_model

transformers = pytest.importorskip("transformers")

ENCODER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    r"encoder.layer.(\d+).layer_scale(\d).lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder.layer.(\d+).norm(\d)": r"blocks.\1.norm\2",
    r"encoder.layer.(\d+).mlp.fc(\d)": r"blocks.\1.mlp.fc\2",
    r"encoder.layer.(\d+).attention.(?:output.dense|o_proj)": r"blocks.\1.attn.proj",  # version 4 | version 5
    "layernorm": "norm",
}
HEAD = {
    r"neck.reassemble_stage.layers.(\d).projection": r"projects.\1",
    r"neck.reassemble_stage.layers.(\d).resize": r"resize_layers.\1",
    "head.conv1": "scratch.output_conv1",
    "head.conv2": "scratch.output_conv2.0",
    "head.conv3": "scratch.output_conv2.2",
}


def our_name(theirs):
    """One name of transformers in ours; levels are counted from 1 here, and fusion layers from the other end."""
    if theirs.startswith("backbone."):
        for pattern, ours in ENCODER.items():
            theirs = re.sub(rf"^backbone\.{pattern}", f"pretrained.{ours}", theirs)
        return theirs
    if match := re.match(r"neck\.convs\.(\d)\.weight", theirs):
        return f"depth_head.scratch.layer{int(match[1]) + 1}_rn.weight"
    if match := re.match(r"neck\.fusion_stage\.layers\.(\d)\.(.*)", theirs):
        rest = re.sub(r"residual_layer(\d)\.convolution(\d)", r"resConfUnit\1.conv\2", match[2])
        return f"depth_head.scratch.refinenet{4 - int(match[1])}.{rest.replace('projection', 'out_conv')}"
    for pattern, ours in HEAD.items():
        theirs = re.sub(rf"^{pattern}", f"depth_head.{ours}", theirs)
    return theirs


def our_weights(theirs):
    weights, qkv = {}, {}
    for name, tensor in theirs.items():
        if match := re.match(r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:attention\.)?([qkv])\w+\.(\w+)", name):
            qkv.setdefault(f"pretrained.blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            weights[our_name(name)] = tensor
    joined = {name: torch.cat([parts[key] for key in "qkv"]) for name, parts in qkv.items()}
    return {**weights, **joined}


def twins(taps, kind="relative", max_depth_m=None, dim=48, depth=4, heads=4, features=16, channels=(8, 12, 16, 20)):
    """Their model with random weights, and ours with the same."""
    backbone = transformers.Dinov2Config(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, image_size=70, patch_size=14,
        out_indices=[tap + 1 for tap in taps], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=dim, neck_hidden_sizes=list(channels),
        fusion_hidden_size=features, depth_estimation_type=kind, max_depth=max_depth_m or 1,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.DepthAnythingForDepthEstimation(config).eval()
    for parameter in theirs.parameters():  # larger than they start in training, which gives maps with more relief
        torch.nn.init.normal_(parameter, std=1.6 / dim**0.5)
    theirs.head.conv3.weight.data.mul_(3e-3 if dim == 48 else 1.0)  # outputs of about 1
    torch.nn.init.constant_(theirs.head.conv3.bias, 1.0 if kind == "relative" else 0.0)
    ours = build_depth_model(
        name="test", embed_dim=dim, depth=depth, num_heads=heads, features=features, out_channels=channels, taps=taps,
        image_size=70, position="transformers", kind=kind, max_depth_m=max_depth_m,
    )  # fmt: skip
    ours.load_state_dict(our_weights(theirs.state_dict()), strict=True)
    return theirs, ours.eval()


@pytest.mark.parametrize("size", [(70, 70), (42, 70), (98, 56), (14, 140)])
@pytest.mark.parametrize("kind, max_depth_m", [("relative", None), ("metric", 80)])
@pytest.mark.parametrize("taps", [(0, 1, 2, 3), (0, 1, 3, 4)])
def test_model__gives_transformers_numbers(taps, kind, max_depth_m, size):
    theirs, ours = twins(taps, kind, max_depth_m, depth=taps[-1] + 1)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = theirs(image).predicted_depth, ours(image)[:, 0]
    assert expected.std() > 0.02 * expected.mean() > 0
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(518, 518), (70, 518)])
def test_small_model__gives_transformers_numbers_at_full_size(size):
    theirs, ours = twins((8, 9, 10, 11), dim=384, depth=12, heads=6, features=64, channels=(48, 96, 192, 384))
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = theirs(image).predicted_depth, ours(image)[:, 0]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
