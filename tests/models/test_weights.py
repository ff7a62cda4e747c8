import pytest
import torch
from networks import build, equal

from depth_anything_train.models.weights import load_strict, weights_hash
from depth_anything_train.runtime import UserError


def test_weights_hash__tells_models_apart():
    model = build()
    assert weights_hash(model) == weights_hash(build().to(memory_format=torch.channels_last))
    assert weights_hash(model) != weights_hash(build(seed=1))
    assert weights_hash(model) != weights_hash(build().bfloat16())


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
