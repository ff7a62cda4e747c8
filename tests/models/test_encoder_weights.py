import json
import os

import pytest
import safetensors.torch
import torch
from networks import build, equal

from depth_anything_train.models import encoder_weights
from depth_anything_train.models.encoder_weights import load_encoder
from depth_anything_train.ops.positions import resample_positions
from depth_anything_train.runtime import UserError


@pytest.fixture
def source():
    return build(seed=1).pretrained


@pytest.mark.parametrize("prefix", ["", "pretrained."])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_encoder__loads_plain_and_whole_model_files(tmp_path, source, prefix, nested):
    tensors = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    if prefix:
        tensors["depth_head.anything"] = torch.zeros(1)
    encoder = build().pretrained
    torch.save({nested: tensors} if nested else tensors, tmp_path / "weights.pth")
    load_encoder(encoder, tmp_path / "weights.pth")
    assert equal(encoder, source)


def test_encoder__casts_stored_half_precision(tmp_path, source):
    safetensors.torch.save_file({k: v.half() for k, v in source.state_dict().items()}, tmp_path / "half.safetensors")
    encoder = build().pretrained
    load_encoder(encoder, str(tmp_path / "half.safetensors"))
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert equal(encoder, source.half().float())


def test_encoder__resamples_positions_of_another_grid(tmp_path, source):
    safetensors.torch.save_file(source.state_dict(), tmp_path / "e.safetensors")
    encoder = build(image_size=84).pretrained
    load_encoder(encoder, tmp_path / "e.safetensors")
    assert torch.equal(encoder.pos_embed, resample_positions(source.pos_embed, (6, 6), "dinov2"))
    assert torch.equal(encoder.blocks[3].mlp.fc2.weight, source.blocks[3].mlp.fc2.weight)


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_encoder__loads_from_timms_hub(tmp_path, ffn):
    source = build(seed=1, ffn=ffn).pretrained
    tensors = {k.replace("w12", "fc1").replace("w3", "fc2"): v for k, v in source.state_dict().items()}
    tensors.pop("mask_token")  # timm has none
    sizes = {"img_size": 56, "embed_dim": 32, "depth": 4, "num_heads": 2}
    if ffn == "swiglu":
        sizes["mlp_ratio"] = 88 * 2 / 32
    architecture = {"mlp": "vit_small_patch14_dinov2", "swiglu": "vit_giant_patch14_dinov2"}[ffn]
    config = {"architecture": architecture, "num_classes": 0, "model_args": sizes, "pretrained_cfg": {"num_classes": 0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    encoder = build(ffn=ffn).pretrained
    mask_token = encoder.mask_token.clone()
    load_encoder(encoder, f"hub:local-dir:{tmp_path}")
    assert torch.equal(encoder.mask_token, mask_token)
    source.mask_token.data.copy_(mask_token)
    assert equal(encoder, source)


def test_encoder__hub_failures_are_named(tmp_path):
    with pytest.raises(UserError, match="Expected an encoder of size vits"):
        load_encoder(build().pretrained, "hub")
    with pytest.raises(UserError, match="could not be had"):
        load_encoder(build().pretrained, f"hub:local-dir:{tmp_path}/nothing")


def test_encoder__hub_names_are_known_to_timm():
    import timm

    assert set(encoder_weights.HUB_NAMES) == {"vits", "vitb", "vitl", "vitg"}
    assert set(encoder_weights.HUB_NAMES.values()) <= set(timm.list_pretrained("vit_*dinov2*"))


def test_encoder__world_comes_from_the_package(tmp_path, source, monkeypatch):
    monkeypatch.setattr(encoder_weights, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="world_pretrain"):
        load_encoder(build().pretrained, "world")
    (tmp_path / "assets").mkdir()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "assets" / "world_encoder.safetensors")
    encoder = build().pretrained
    load_encoder(encoder, "world")
    assert equal(encoder, source)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-done",)


def test_encoder__pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Harmful()}, "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(build().pretrained, "evil.pth")
    assert not (tmp_path / "harm-done").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", bytes(1000)])
def test_encoder__files_without_weights_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(build().pretrained, tmp_path / name)


def test_encoder__a_file_of_other_things_is_refused(tmp_path):
    torch.save({"epoch": 3, "weights": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="something else than named tensors"):
        load_encoder(build().pretrained, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not exist"):
        load_encoder(build().pretrained, tmp_path / "b.pth")


def test_encoder__registers_and_other_sizes_are_named(tmp_path, source):
    tensors = {**source.state_dict(), "register_tokens": torch.zeros(1, 4, 32)}
    torch.save(tensors, tmp_path / "registers.pth")
    with pytest.raises(UserError, match="registers"):
        load_encoder(build().pretrained, tmp_path / "registers.pth")
    torch.save(build(embed_dim=64).pretrained.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(UserError, match="64 channels and 4 blocks instead of 32 and 4"):
        load_encoder(build().pretrained, tmp_path / "wide.pth")
