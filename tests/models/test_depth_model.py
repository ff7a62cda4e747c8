import json

import pytest
import torch

from depth_anything_train.models.depth_model import DepthModelConfig, build_depth_model
from depth_anything_train.runtime import UserError

SIZES = {
    "vits": dict(embed_dim=384, depth=12, num_heads=6, features=64, out_channels=[48, 96, 192, 384]),
    "vitb": dict(embed_dim=768, depth=12, num_heads=12, features=128, out_channels=[96, 192, 384, 768]),
    "vitl": dict(embed_dim=1024, depth=24, num_heads=16, features=256, out_channels=[256, 512, 1024, 1024]),
    "vitg": dict(embed_dim=1536, depth=40, num_heads=24, ffn="swiglu", features=384, out_channels=[1536] * 4),
}
RELEASED = {  # tensors, parameters of the encoder, parameters in all
    "vits": (239, 22_056_576, 24_785_089),
    "vitb": (239, 86_580_480, 97_470_785),
    "vitl": (407, 304_368_640, 335_315_649),
    "vitg": (631, 1_136_480_768, 1_258_132_225),
}
TEST = dict(name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8, 8, 8, 8], image_size=56)


def build(**changes):
    torch.manual_seed(0)
    return build_depth_model(**{**TEST, **changes}).eval()


@pytest.mark.parametrize("name", SIZES)
def test_sizes__have_the_released_tensors_and_parameters(name):
    with torch.device("meta"):
        model = build_depth_model(name=name, **SIZES[name])
    encoder = sum(p.numel() for p in model.pretrained.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert (len(model.state_dict()), encoder, total) == RELEASED[name]
    assert model.pretrained.pos_embed.shape[1] == 1370


def test_state_dict__has_the_released_names():
    names = set(build(depth=12).state_dict())
    linear = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    block = [f"{layer}.{kind}" for layer in linear for kind in ("weight", "bias")] + ["ls1.gamma", "ls2.gamma"]
    expected = {"pretrained." + name for name in ("cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias")}
    expected |= {f"pretrained.patch_embed.proj.{kind}" for kind in ("weight", "bias")}
    expected |= {f"pretrained.blocks.{i}.{name}" for i in range(12) for name in block}
    head = [f"projects.{i}" for i in range(4)] + [f"resize_layers.{i}" for i in (0, 1, 3)]
    head += ["scratch.output_conv1", "scratch.output_conv2.0", "scratch.output_conv2.2"]
    for k in range(1, 5):
        units = [f"resConfUnit{u}.conv{c}" for u in (1, 2) for c in (1, 2)]
        head += [f"scratch.refinenet{k}.{name}" for name in ("out_conv", *units)]
    expected |= {f"depth_head.{layer}.{kind}" for layer in head for kind in ("weight", "bias")}
    expected |= {f"depth_head.scratch.layer{k}_rn.weight" for k in range(1, 5)}
    assert names == expected


@pytest.mark.parametrize("size", [(56, 56), (28, 84), (14, 14)])
def test_forward__gives_disparity_at_the_images_size(size):
    image = torch.randn(2, 3, *size)
    disparity, patches = build().forward_features(image)
    assert disparity.shape == (2, 1, *size) and disparity.dtype == torch.float32 and (disparity >= 0).all()
    assert patches.shape == (2, size[0] * size[1] // 196, 32)


@pytest.mark.parametrize("activation_checkpointing", ["none", "selective", "full"])
def test_backward__reaches_every_trainable_parameter(activation_checkpointing):
    model = build(activation_checkpointing=activation_checkpointing).train()
    disparity, patches = model.forward_features(torch.randn(1, 3, 28, 42))
    (disparity.square().mean() + patches.square().mean()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_forward__can_be_counted_on_the_meta_device():
    with torch.device("meta"):
        disparity = build_depth_model(name="vits", **SIZES["vits"])(torch.empty(1, 3, 518, 518))
    assert disparity.shape == (1, 1, 518, 518)


def test_forward__is_equal_in_both_memory_layouts():
    image = torch.randn(2, 3, 56, 42)
    last = build().to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(image.contiguous(memory_format=torch.channels_last)), build()(image))


def test_config__travels_through_json():
    model = build(taps="spread", depth=12, kind="metric", max_depth_m=20.0)
    stored = json.loads(json.dumps(model.config.to_dict()))
    assert stored["encoder"]["taps"] == [2, 5, 8, 11]
    assert DepthModelConfig.from_dict(stored) == model.config
    del stored["canonical_focal_px"]  # files of before have none
    assert DepthModelConfig.from_dict(stored) == model.config


@pytest.mark.parametrize(
    "damage", [lambda c: c.pop("features"), lambda c: c.update(colour=1), lambda c: c.pop("encoder")]
)
def test_config__refuses_what_it_does_not_know(damage):
    content = build().config.to_dict()
    damage(content)
    with pytest.raises(UserError, match="missing or unknown"):
        DepthModelConfig.from_dict(content)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "metric"}, "max_depth_m"),
        ({"max_depth_m": 80.0}, "max_depth_m"),
        ({"kind": "absolute"}, "relative, metric"),
        ({"canonical_focal_px": 500.0}, "canonical_focal_px above 0 for a metric model"),
        ({"kind": "metric", "max_depth_m": 20.0, "canonical_focal_px": 0.0}, "canonical_focal_px above 0"),
        ({"out_channels": [8, 8, 8]}, "four out_channels"),
    ],
)
def test_config__says_what_does_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_packed__images_of_several_sizes_give_what_each_gives_alone():
    model = build().eval()
    images = [
        torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)) for size in ((28, 42), (56, 56), (14, 70))
    ]
    with torch.no_grad():
        packed, alone = model.forward_packed(images), [model(image) for image in images]
    for a, b in zip(packed, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16__keeps_the_last_convolution_exact_and_the_output_fine():
    model = build().eval()
    last = model.depth_head.scratch.output_conv2[2].weight.clone()
    image = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(image)
        model.to_bfloat16()
        half = model(image.bfloat16())
    assert torch.equal(model.depth_head.scratch.output_conv2[2].weight, last)
    assert model.pretrained.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert half.dtype == torch.float32 and len(half.unique()) > len(half.bfloat16().unique())
    assert (half - expected).abs().max() < 0.05 * expected.abs().max()
