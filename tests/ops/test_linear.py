"""Linear layers beside torch's own, small ones and ones large enough for oneDNN."""

import pytest
import torch
from torch.nn import functional

from depth_anything_train.ops import linear as module
from depth_anything_train.ops.linear import gradients, linear, product

SIZES = [(8, 6), (256, 512)]
NAMES = ("x", "weight", "bias")


def given(size, dtype=torch.float32, frozen=()):
    inputs, outputs = size
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, inputs), (outputs, inputs), (outputs,))
    leaves = [torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]
    return [leaf.requires_grad_(name not in frozen) for leaf, name in zip(leaves, NAMES, strict=True)]


def outcome(way, leaves):
    result = way(*leaves)
    result.square().sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("frozen", [(), ("x",), ("weight",), ("bias",), ("x", "weight")])
@pytest.mark.parametrize("size", SIZES)
def test_linear__has_the_result_and_the_gradients_of_torchs_in_float64(size, frozen):
    ours = outcome(linear, given(size, frozen=frozen))
    exact = outcome(functional.linear, given(size, torch.float64, frozen))
    for one, other in zip(ours, exact, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * other.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_product__has_the_bits_of_linear(size):
    leaves = given(size)
    with torch.no_grad():
        assert torch.equal(product(*leaves), linear(*leaves))
    assert torch.equal(product(*leaves), linear(*leaves))


@pytest.mark.parametrize("size", SIZES)
def test_gradients__are_those_of_linear_to_the_last_bit_and_none_where_none_is_needed(size):
    leaves = given(size)
    _, *expected = outcome(linear, leaves)
    x, weight, bias = (leaf.detach() for leaf in leaves)
    found = gradients(2 * product(x, weight, bias), x, weight, (True, True, True))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert gradients(x @ weight.t(), x, weight, (False, False, False)) == (None, None, None)


def test_linear__under_autocast_is_bfloat16_as_torchs_is():
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (outcome(way, given(SIZES[1])) for way in (linear, functional.linear))
    assert [one.dtype for one in ours] == [one.dtype for one in theirs]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_linear__is_one_graph_for_a_compiler():
    leaves = given(SIZES[1])
    torch.testing.assert_close(torch.compile(linear, backend="eager", fullgraph=True)(*leaves), linear(*leaves))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="only where there is AVX-512")
def test_linear__large_float32_ones_go_to_onednn_and_nothing_else_does(monkeypatch):
    seen = []
    monkeypatch.setattr(functional, "linear", lambda x, *rest: seen.append(x.dtype) or x)
    with torch.no_grad():
        linear(*given(SIZES[1]))
        assert not seen
        for leaves in (given(SIZES[0]), given(SIZES[1], torch.float64), given(SIZES[1], torch.bfloat16)):
            linear(*leaves)
            product(*leaves)
    assert len(seen) == 6
    assert SIZES[1][0] * SIZES[1][1] >= module.SMALLEST > SIZES[0][0] * SIZES[0][1]
