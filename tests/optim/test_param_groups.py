import pytest
import torch
from torch import nn

from depth_anything_train.optim.param_groups import prefix_groups
from depth_anything_train.runtime import UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.pretrained = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.depth_head = nn.Linear(3, 1)
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)


def groups(model, **options):
    rates = {"pretrained.": ("encoder", 1e-6), "": ("decoder", 1e-5)}
    return prefix_groups(model, rates, weight_decay=0.01, **options)


@pytest.mark.parametrize("decay_norms_and_biases", [True, False])
def test_groups__hold_every_trainable_parameter_exactly_once(decay_norms_and_biases):
    model = Model()
    made = groups(model, decay_norms_and_biases=decay_norms_and_biases)
    names = [name for group in made for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_groups__encoder_and_decoder_have_their_own_rates():
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups(Model())}
    assert rates == {"encoder": (1e-6, 0.01), "decoder": (1e-5, 0.01)}


def test_groups__vectors_can_be_spared_from_decay():
    made = {group["name"]: group for group in groups(Model(), decay_norms_and_biases=False)}
    assert set(made) == {"encoder", "encoder_no_decay", "decoder", "decoder_no_decay"}
    for name, group in made.items():
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for _, parameter in group["params"])
        assert group["lr"] == (1e-6 if name.startswith("encoder") else 1e-5)


def test_groups__are_taken_by_an_optimiser_with_their_names():
    optimizer = torch.optim.AdamW(groups(Model()))
    assert [group["name"] for group in optimizer.param_groups] == ["encoder", "decoder"]
    assert optimizer.param_groups[1]["param_names"] == ["depth_head.weight", "depth_head.bias"]


def test_groups__a_frozen_encoder_leaves_the_decoder():
    model = Model()
    model.pretrained.requires_grad_(False)
    assert [group["name"] for group in groups(model)] == ["decoder"]


def test_groups__refuse_a_model_without_trainable_parameters():
    with pytest.raises(UserError, match="all are frozen"):
        groups(Model().requires_grad_(False))
