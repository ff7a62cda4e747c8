"""A block whose layers were replaced or hooked from outside, as adapters and probes do."""

import pytest
import torch
from torch import nn

from depth_anything_train.models.block import Block

CASES = [(ffn, recompute) for ffn in ("mlp", "swiglu") for recompute in ("none", "selective", "full")]


class LowRank(nn.Module):
    """As adapters are: it holds the layer that it stands for, shows its weight and bias, and adds something."""

    def __init__(self, layer, dropout=0.0):
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(dropout)
        self.down = nn.Parameter(torch.randn(3, layer.in_features))
        self.up = nn.Parameter(torch.randn(layer.out_features, 3))
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return self.layer(x) + self.dropout(x) @ self.down.t() @ self.up.t()


def block(ffn="mlp", recompute="selective"):
    torch.manual_seed(0)
    made = Block(16, 2, ffn=ffn, activation_checkpointing=recompute).train()
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


def test_block__recomputed_adapters_drop_out_what_they_dropped_out_before():
    found = []
    for recompute in ("none", "full"):
        made, x = block(recompute=recompute)
        for name, layer in layers(made).items():
            made.set_submodule(name, LowRank(layer, dropout=0.5))
        torch.manual_seed(1)
        found.append(torch.autograd.grad(made(x).square().sum(), list(made.parameters())))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("part", ["norm1", "attn", "attn.qkv", "attn.proj", "ls1", "norm2", "mlp", "mlp.fc1", "ls2"])
def test_block__runs_every_kind_of_hook_on_every_part(part, kind):
    made, x = block()
    seen = []
    handle = getattr(made.get_submodule(part), f"register_{kind}_hook")(lambda *_: seen.append(kind))
    made(x.requires_grad_()).sum().backward()
    assert seen == [kind]
    handle.remove()
    made(x).sum().backward()
    assert seen == [kind]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_block__a_hook_may_be_gone_when_backward_comes(recompute):
    made, x = block(recompute=recompute)
    handle = made.mlp.fc1.register_forward_hook(lambda *_: None)
    loss = made(x).sum()
    handle.remove()
    loss.backward()
    assert made.mlp.fc1.weight.grad.any()


def test_block__calls_a_forward_that_was_put_in_place_of_a_layers_own():
    made, x = block()
    before, own = made(x), made.attn.qkv.forward
    made.attn.qkv.forward = lambda inputs: 2 * own(inputs)
    assert not torch.allclose(made(x), before)


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_block__has_the_gradients_of_the_parameters_it_was_called_with(recompute):
    made, x = block(recompute=recompute)
    others = {name: (part.detach() + torch.randn_like(part)).requires_grad_() for name, part in made.named_parameters()}
    result = torch.func.functional_call(made, others, (x,))
    found = torch.autograd.grad(result.square().sum(), list(others.values()))
    made.load_state_dict(others)
    made.activation_checkpointing = "none"
    expected = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block__can_be_exported_for_any_number_of_tokens(dtype):
    made, x = block()
    made, x = made.eval().to(dtype), x.to(dtype)
    longer = torch.randn(2, 700, 16, dtype=dtype)
    shapes = {"x": {1: torch.export.Dim("tokens", max=2000)}}
    exported = torch.export.export(made, (x,), dynamic_shapes=shapes).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(longer), made(longer), rtol=2e-2, atol=2e-2)
