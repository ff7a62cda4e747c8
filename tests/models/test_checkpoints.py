import json
import os

import pytest
import safetensors.torch
import torch

from depth_anything_train.models import checkpoints
from depth_anything_train.models.checkpoints import (
    load_encoder,
    load_model,
    load_strict,
    read_description,
    save_model,
    weights_hash,
)
from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.ops.positions import resample_positions
from depth_anything_train.runtime import UserError


def build(seed=0, **changes):
    torch.manual_seed(seed)
    plain = dict(name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8, 8, 8, 8], image_size=56)
    return build_depth_model(**{**plain, **changes})


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- A model folder. ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"ffn": "swiglu", "taps": "spread", "depth": 8}, {"kind": "metric", "max_depth_m": 20.0}]
)
def test_model__comes_back_as_it_was(tmp_path, changes):
    model = build(**changes).eval()
    loaded = load_model(save_model(tmp_path / "model", model, {"steps": 7}))
    assert equal(model, loaded) and loaded.config == model.config and not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    image = torch.randn(1, 3, 28, 42)
    assert torch.equal(loaded(image), model(image))
    assert read_description(tmp_path / "model")["extra"] == {"steps": 7}


def test_save__gives_equal_bytes_whatever_the_memory_layout(tmp_path):
    a = save_model(tmp_path / "a", build())
    b = save_model(tmp_path / "b", build().to(memory_format=torch.channels_last))
    assert sorted(os.listdir(a)) == ["model.json", "model.safetensors"]
    for name in os.listdir(a):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_weights_hash__tells_models_apart():
    model = build()
    assert weights_hash(model) == weights_hash(build().to(memory_format=torch.channels_last))
    assert weights_hash(model) != weights_hash(build(seed=1))
    assert weights_hash(model) != weights_hash(build().bfloat16())


def test_load__any_damage_is_seen(tmp_path):
    folder = save_model(tmp_path, build())
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(content[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_model(folder)


def test_load__weights_of_another_save_are_seen(tmp_path):
    a, b = save_model(tmp_path / "a", build()), save_model(tmp_path / "b", build(seed=1))
    os.replace(b / "model.safetensors", a / "model.safetensors")
    with pytest.raises(UserError, match="another hash"):
        load_model(a)


@pytest.mark.parametrize(
    "changes, cause",
    [({"embed_dim": 64}, "64 channels"), ({"depth": 6}, "6 blocks"), ({"features": 16}, "built otherwise")],
)
def test_load__weights_of_another_model_are_named(tmp_path, changes, cause):
    folder, other = save_model(tmp_path / "a", build()), save_model(tmp_path / "b", build(**changes))
    os.replace(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match=cause):
        load_model(folder)


def test_load__missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "nothing")
    folder = save_model(tmp_path / "model", build())
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": 2, "config": {}}', "{"])
def test_load__foreign_descriptions_are_refused(tmp_path, content):
    save_model(tmp_path, build())
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError):
        load_model(tmp_path)


def test_load_strict__leaves_the_model_alone_when_it_fails():
    model, before = build(), build()
    tensors = dict(build(seed=1).state_dict())
    tensors.pop("depth_head.scratch.output_conv1.bias")
    with pytest.raises(UserError, match="1 missing .first depth_head.scratch.output_conv1.bias"):
        load_strict(model, tensors, source="x")
    assert equal(model, before)


@pytest.mark.parametrize(
    "rename, cause",
    [
        (lambda name: f"backbone.{name}", "transformers"),
        (lambda name: f"module.{name}", "training checkpoint"),
        (lambda name: f"layer4.{len(name)}", "no model of this family"),
    ],
)
def test_load_strict__names_the_likely_cause(rename, cause):
    tensors = {rename(name): tensor for name, tensor in build().state_dict().items()}
    with pytest.raises(UserError, match=cause):
        load_strict(build(), tensors, source="x")


def test_load_strict__an_encoder_is_no_model():
    tensors = {f"pretrained.{name}": tensor for name, tensor in build().pretrained.state_dict().items()}
    with pytest.raises(UserError, match="encoder alone"):
        load_strict(build(), tensors, source="x")


# -- An encoder from elsewhere. ----------------------------------------------------------------------------------------


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

    assert set(checkpoints.HUB_NAMES) == {"vits", "vitb", "vitl", "vitg"}
    assert set(checkpoints.HUB_NAMES.values()) <= set(timm.list_pretrained("vit_*dinov2*"))


def test_encoder__world_comes_from_the_package(tmp_path, source, monkeypatch):
    monkeypatch.setattr(checkpoints, "files", lambda package: tmp_path)
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
