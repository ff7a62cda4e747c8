"""Layers whose input is computed again in backward, beside plain ones."""

import pytest
import torch
from torch import nn

from depth_anything_train.models.recompute import linear_after, recomputed_linear_after

FROZEN = [(), ("x",), ("weight",), ("bias",), ("gamma",), ("gamma", "beta"), ("x", "gamma", "beta"), ("weight", "bias")]


def gradients(way, function, frozen=(), dtype=torch.float32, autocast=False, width=8):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((2, 5, width), (width - 2, width), (width - 2,)))
    leaves = {"x": x, "weight": weight, "bias": bias}
    if isinstance(function, nn.Module):
        function.to(dtype)
        leaves |= {"gamma": function.weight, "beta": function.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name not in frozen)
        leaf.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = way(function, x, weight, bias)
    result.float().square().sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves.values())]


def assert_same(function, **options):
    expected, found = (gradients(way, function, **options) for way in (linear_after, recomputed_linear_after))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("frozen", FROZEN)
def test_recomputed_linear_after__has_the_gradients_of_a_plain_one_whatever_is_frozen(frozen):
    assert_same(nn.LayerNorm(8), frozen=frozen)


@pytest.mark.parametrize(
    "dtype, autocast", [(torch.float64, False), (torch.bfloat16, False), (torch.float32, True), (torch.float64, True)]
)
@pytest.mark.parametrize("function", [nn.LayerNorm(8), nn.functional.gelu], ids=["norm", "activation"])
def test_recomputed_linear_after__has_the_bits_of_a_plain_one_in_any_precision(function, dtype, autocast):
    assert_same(function, dtype=dtype, autocast=autocast)


@pytest.mark.parametrize("frozen", FROZEN)
def test_recomputed_linear_after__has_the_bits_of_a_plain_one_large_enough_for_another_library(frozen):
    assert_same(nn.LayerNorm(300), frozen=frozen, width=300)


def test_recomputed_linear_after__agrees_with_finite_differences():
    norm = nn.LayerNorm(4).double()
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 4), (5, 4), (5,))]
    assert torch.autograd.gradcheck(lambda *given: recomputed_linear_after(norm, *given), inputs)
