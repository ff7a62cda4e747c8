"""Layers whose input is computed again in backward, beside plain ones."""

import pytest
import torch
from torch import nn

from depth_anything_train.models.recompute import linear_after, recomputed_linear_after

NAMES = ("x", "weight", "bias", "gamma", "beta")
FROZEN = [(), ("x",), ("weight",), ("bias",), ("gamma",), ("gamma", "beta"), ("x", "gamma", "beta"), ("weight", "bias")]


def norm(x, gamma, beta):
    return nn.functional.layer_norm(x, gamma.shape, gamma, beta)


def given(parameters, frozen=(), dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((2, 5, 8), (6, 8), (6,), (8,), (8,))[: 5 if parameters else 3]
    leaves = [torch.randn(*shape, dtype=dtype) for shape in shapes]
    return [leaf.requires_grad_(name not in frozen) for leaf, name in zip(leaves, NAMES, strict=False)]


def gradients(way, function, frozen=(), dtype=torch.float32, autocast=False):
    leaves = given(function is norm, frozen, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = way(function, *leaves)
    result.float().square().sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def assert_same(function, **options):
    expected, found = (gradients(way, function, **options) for way in (linear_after, recomputed_linear_after))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("frozen", FROZEN)
def test_recomputed_linear_after__has_the_gradients_of_a_plain_one_whatever_is_frozen(frozen):
    assert_same(norm, frozen=frozen)


@pytest.mark.parametrize(
    "dtype, autocast",
    [(torch.float64, False), (torch.bfloat16, False), (torch.float32, True), (torch.float64, True)],
)
@pytest.mark.parametrize("function", [norm, nn.functional.gelu], ids=["norm", "activation"])
def test_recomputed_linear_after__has_the_bits_of_a_plain_one_in_any_precision(function, dtype, autocast):
    assert_same(function, dtype=dtype, autocast=autocast)


def test_recomputed_linear_after__agrees_with_finite_differences():
    inputs = given(True, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *leaves: recomputed_linear_after(norm, *leaves), inputs)


def test_recomputed_linear_after__refuses_gradients_of_what_was_changed_since():
    leaves = given(True)
    result = recomputed_linear_after(norm, *leaves)
    with torch.no_grad():
        leaves[3].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()
