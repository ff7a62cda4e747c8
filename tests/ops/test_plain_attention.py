"""Attention in plain products beside torch's, whole and some rows at a time."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from depth_anything_train.ops import plain_attention as module
from depth_anything_train.ops.plain_attention import plain_attention


def given(dtype, batch=2, tokens=11):
    generator = torch.Generator().manual_seed(0)
    # As a block hands them over: parts of one tensor, heads inside tokens.
    qkv = torch.randn(batch, tokens, 3, 4, 8, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    return qkv, [x.transpose(1, 2) for x in qkv.unbind(2)]


def outcome(way, dtype, **shape):
    leaf, inputs = given(dtype, **shape)
    result = way(*inputs)
    result.sin().sum().backward()
    return result.detach().double(), leaf.grad.double()


@pytest.mark.parametrize("rows, scores", [(1, 1), (4, 50), (4, 100), (11, 2**22), (256, 300), (256, 2**22)])
@pytest.mark.parametrize("batch", [1, 3])
def test_plain_attention__is_torchs_whatever_it_works_on_at_a_time(monkeypatch, rows, scores, batch):
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "SCORES", scores)
    ours, theirs = (outcome(way, torch.float64, batch=batch) for way in (plain_attention, scaled_dot_product_attention))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_plain_attention__in_bfloat16_errs_by_the_size_of_its_rounding(scale):
    def result_and_gradient(way, dtype):
        leaf, (query, key, value) = given(dtype, tokens=300)
        result = way(scale * query, key, value)
        result.float().sin().sum().backward()
        return result.detach().double(), leaf.grad.double()

    rounded = result_and_gradient(plain_attention, torch.bfloat16)
    exact = result_and_gradient(scaled_dot_product_attention, torch.float64)
    for ours, truth in zip(rounded, exact, strict=True):  # bfloat16 has eight bits: steps of 0.008
        assert (ours - truth).norm() < 0.03 * truth.norm()


@pytest.mark.parametrize("batch, tokens", [(0, 5), (2, 0)])
def test_plain_attention__takes_nothing(batch, tokens):
    ours, theirs = (
        outcome(way, torch.bfloat16, batch=batch, tokens=tokens)
        for way in (plain_attention, scaled_dot_product_attention)
    )
    torch.testing.assert_close(ours, theirs)


def test_plain_attention__agrees_with_finite_differences(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    inputs = [torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(plain_attention, inputs)


def test_plain_attention__is_one_graph_for_a_compiler():
    inputs = [x.detach().requires_grad_() for x in given(torch.float32)[1]]
    compiled = torch.compile(plain_attention, backend="aot_eager", fullgraph=True)
    results = [torch.autograd.grad(way(*inputs).sin().sum(), inputs) for way in (compiled, plain_attention)]
    torch.testing.assert_close(*results)
