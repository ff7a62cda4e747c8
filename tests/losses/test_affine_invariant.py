"""Affine-invariant loss against the paper's formula, written image by image in plain Python numbers."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.losses.affine_invariant import AffineInvariantLoss


def normalized(values):
    median = statistics.median_low(values)
    spread = max(sum(abs(v - median) for v in values) / len(values), 1e-6)
    return [(v - median) / spread for v in values]


def plain_loss(pred, target, valid):
    total = 0.0
    for a, b, mask in zip(pred, target, valid, strict=True):
        if mask.any():
            pairs = zip(normalized(a[mask].tolist()), normalized(b[mask].tolist()), strict=True)
            total += statistics.fmean(abs(x - y) for x, y in pairs)
    return total / len(pred)


def case(seed=0, shape=(3, 1, 6, 7), share=0.7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, *shape, generator=generator, dtype=dtype)
    return pred, target, torch.rand(shape, generator=generator) < share


loss = AffineInvariantLoss()


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), batch=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_forward__matches_plain_python(seed, share, batch):
    pred, target, valid = case(seed, shape=(batch, 1, 6, 7), share=share)
    assert loss(pred, target, valid).item() == pytest.approx(plain_loss(pred, target, valid), rel=1e-12)


def test_forward__float32_is_near_float64_at_full_size():
    pred, target, valid = case(shape=(1, 1, 518, 518), dtype=torch.float32)
    exact = plain_loss(pred.double(), target.double(), valid)
    assert loss(pred, target, valid).item() == pytest.approx(exact, rel=1e-6)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_forward__ignores_scale_and_shift_of_either_map(seed, scale, shift):
    pred, target, valid = case(seed)
    expected = loss(pred, target, valid)
    torch.testing.assert_close(loss(scale * pred + shift, target, valid), expected)
    torch.testing.assert_close(loss(pred, scale * target + shift, valid), expected)


def test_forward__is_zero_for_an_affine_copy_and_positive_for_a_mirrored_one():
    pred, _, valid = case()
    assert loss(pred, 3 * pred + 1, valid).item() == pytest.approx(0, abs=1e-14)
    assert loss(pred, -pred, valid).item() > 0.5


def test_forward__ignores_the_order_of_images():
    pred, target, valid = case()
    torch.testing.assert_close(loss(pred.flip(0), target.flip(0), valid.flip(0)), loss(pred, target, valid))


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_forward__invalid_pixels_reach_neither_value_nor_gradient(garbage):
    pred, target, valid = case()
    clean = pred.clone().requires_grad_()
    dirty = torch.where(valid, pred, garbage).requires_grad_()
    results = [loss(clean, target, valid), loss(dirty, torch.where(valid, target, garbage), valid)]
    for result in results:
        result.backward()
    assert torch.equal(*results)
    assert torch.equal(clean.grad, dirty.grad)
    assert (dirty.grad[~valid] == 0).all()


def test_forward__image_without_valid_pixels_adds_nothing_but_counts_as_an_image():
    pred, target, valid = case()
    valid[1] = False
    pred = pred.requires_grad_()
    result = loss(pred, target, valid)
    result.backward()
    others = [loss(pred[i : i + 1], target[i : i + 1], valid[i : i + 1]).item() for i in (0, 2)]
    assert result.item() == pytest.approx(sum(others) / 3)
    assert (pred.grad[1] == 0).all()


def test_forward__batch_without_valid_pixels_is_an_attached_zero():
    pred = torch.full((2, 1, 4, 4), torch.nan, requires_grad=True)
    result = loss(pred, torch.rand(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    result.backward()
    assert result.item() == 0 and (pred.grad == 0).all()


def test_forward__is_finite_for_constant_maps():
    pred = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    for target in (torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4)):
        result = loss(pred, target, torch.ones(1, 1, 4, 4, dtype=torch.bool))
        result.backward()
        assert result.isfinite() and pred.grad.isfinite().all()


def test_forward__nan_in_a_valid_pixel_shows():
    pred, target, valid = case()
    pred[0][valid[0]] = torch.nan
    assert loss(pred, target, valid).isnan()


def test_forward__gradient_matches_finite_differences():
    pred, target, valid = case(5, shape=(2, 1, 4, 5))
    valid[0] = True
    assert torch.autograd.gradcheck(lambda pred: loss(pred, target, valid), pred.requires_grad_())


def test_forward__is_float32_under_autocast():
    pred, target, valid = case(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(pred, target, valid)
    assert result.dtype == torch.float32
    assert torch.equal(result, loss(pred.float(), target.float(), valid))
