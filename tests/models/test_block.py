"""A block whose layers were replaced or hooked from outside, as adapters and probes do."""

import pytest
import torch
from torch import nn

from depth_anything_train.models.block import Block

CASES = [(ffn, recompute) for ffn in ("mlp", "swiglu") for recompute in ("none", "selective", "full")]


class LowRank(nn.Module):
    """As adapters are: it holds the layer that it stands for, shows its weight and bias, and adds something."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(3, layer.in_features))
        self.up = nn.Parameter(torch.randn(layer.out_features, 3))
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return self.layer(x) + x @ self.down.t() @ self.up.t()


def block(ffn="mlp", recompute="selective"):
    torch.manual_seed(0)
    made = Block(16, 2, ffn=ffn, recompute=recompute).train()
    nn.init.normal_(made.ls1.gamma)
    nn.init.normal_(made.ls2.gamma)
    return made, torch.randn(2, 5, 16)


def layers(made):
    return {name: layer for name, layer in made.named_modules() if isinstance(layer, nn.Linear)}


@pytest.mark.parametrize("ffn, recompute", CASES)
def test_block__runs_and_trains_layers_that_stand_in_place_of_its_own(ffn, recompute):
    made, x = block(ffn, recompute)
    for name, layer in layers(made).items():
        before = made(x)
        made.set_submodule(name, LowRank(layer))
        assert not torch.allclose(made(x), before), f"{name} did not run"
    made(x).square().sum().backward()
    added = {name: part.grad for name, part in made.named_parameters() if name.endswith(("up", "down"))}
    assert len(added) == 8
    assert all(gradient is not None and gradient.any() for gradient in added.values()), added


@pytest.mark.parametrize("ffn, recompute", CASES)
def test_block__has_its_own_numbers_when_layers_are_called_as_modules(ffn, recompute):
    made, x = block(ffn, recompute)
    expected = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    seen = []
    for name, layer in layers(made).items():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    found = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    assert set(seen) == set(layers(made))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_block__runs_every_kind_of_hook(kind):
    made, x = block()
    seen = []
    handle = getattr(made.mlp.fc1, f"register_{kind}_hook")(lambda *_: seen.append(kind))
    made(x.requires_grad_()).sum().backward()
    assert seen == [kind]
    handle.remove()
    made(x).sum().backward()
    assert seen == [kind]
