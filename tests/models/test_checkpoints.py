import json
import os

import pytest
import torch
from networks import build, equal

from depth_anything_train.models.checkpoints import describe, load_checkpoint, load_model, save_model
from depth_anything_train.runtime import UserError


@pytest.mark.parametrize(
    "changes", [{}, {"ffn": "swiglu", "taps": "spread", "depth": 8}, {"kind": "metric", "max_depth_m": 20.0}]
)
def test_model__comes_back_as_it_was(tmp_path, changes):
    model = build(**changes).eval()
    loaded, extra = load_model(save_model(tmp_path / "model", model, {"steps": 7}))
    assert equal(model, loaded) and loaded.config == model.config and not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    image = torch.randn(1, 3, 28, 42)
    assert torch.equal(loaded(image), model(image))
    assert extra == {"steps": 7, "size": 518}


def test_save__gives_equal_bytes_whatever_the_memory_layout(tmp_path):
    a = save_model(tmp_path / "a", build())
    b = save_model(tmp_path / "b", build().to(memory_format=torch.channels_last))
    assert sorted(os.listdir(a)) == ["model.json", "model.safetensors"]
    for name in os.listdir(a):
        assert (a / name).read_bytes() == (b / name).read_bytes()


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
def test_load__weights_of_another_model_than_the_configuration_are_named(tmp_path, changes, cause):
    folder = save_model(tmp_path, build(**changes))
    described = json.loads((folder / "model.json").read_text()) | {"config": build().config.to_dict()}
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=cause):
        load_model(folder)


def test_load__missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "nothing")
    folder = save_model(tmp_path / "model", build())
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors"):
        load_model(folder)


OTHER_SCHEMA = '{"schema": 2, "config": {}, "sha256": "", "extra": {}}'


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "expected keys schema"),
        ('{"schema": 1, "config": []}', "expected keys config, sha256, extra"),
        (OTHER_SCHEMA, "got schema 2"),
        ("{", "expected JSON"),
    ],
)
def test_load__foreign_descriptions_are_refused(tmp_path, content, message):
    save_model(tmp_path, build())
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patch_size": 0}, "patch_size to be a whole number"),
        ({"depth": "four"}, "depth to be a whole number"),
        ({"num_heads": 0}, "num_heads to be a whole number"),
        ({"taps": ["a", 1, 2, 3]}, "taps to be four ascending"),
    ],
)
def test_load__impossible_numbers_in_the_description_are_one_sentence(tmp_path, changes, message):
    save_model(tmp_path, build())
    description = json.loads((tmp_path / "model.json").read_text())
    description["config"]["encoder"].update(changes)
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


# -- The checkpoint of a run. ------------------------------------------------------------------------------------------


def checkpoint_of(model, extra):
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"state_dict": {**state, "loss.scale": torch.ones(1)}, "depth_model": describe(model, extra)}


def test_checkpoint__gives_the_model_that_was_trained(tmp_path):
    model = build(taps="spread", depth=8)
    torch.save(checkpoint_of(model, {"size": 112}), tmp_path / "step-00000010.ckpt")
    loaded, extra = load_checkpoint(tmp_path / "step-00000010.ckpt")
    assert equal(loaded, model) and loaded.config == model.config
    assert extra == {"size": 112}


@pytest.mark.parametrize("content, reason", [({"state_dict": {}}, "names no depth model"), (b"torn", "Expected a")])
def test_checkpoint__of_another_kind_or_torn_is_refused(tmp_path, content, reason):
    path = tmp_path / "step-00000010.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=reason):
        load_checkpoint(path)
