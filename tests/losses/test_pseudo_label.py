"""Pseudo-label loss against the paper's formula, written region by region in plain Python numbers."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.losses.affine_invariant import AffineInvariantLoss
from depth_anything_train.losses.pseudo_label import PseudoLabelLoss
from depth_anything_train.runtime import UserError


def normalized(values):
    median = statistics.median_low(values)
    spread = max(sum(abs(v - median) for v in values) / len(values), 1e-6)
    return [(v - median) / spread for v in values]


def plain_loss(pred, target, valid, region, trim):
    total = 0.0
    for a, b, mask, own in zip(pred, target, valid, region, strict=True):
        residuals = []
        for part in (mask & own, mask & ~own):
            if part.any():
                pairs = zip(normalized(a[part].tolist()), normalized(b[part].tolist()), strict=True)
                residuals += [abs(x - y) for x, y in pairs]
        if residuals:
            limit = sorted(residuals)[math.ceil(len(residuals) * (1 - trim) - 1e-9) - 1]
            total += statistics.fmean(r for r in residuals if r <= limit)
    return total / len(pred)


def case(seed=0, shape=(3, 1, 7, 8), share=0.8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, *shape, generator=generator, dtype=dtype)
    valid = torch.rand(shape, generator=generator) < share
    region = torch.ones(shape, dtype=torch.bool)
    for image in region[::2]:
        top, left = torch.randint(0, min(shape[-2:]) - 2, (2,), generator=generator).tolist()
        image[:, top : top + 3, left : left + 4] = False
    return pred, target, valid, region


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), trim=st.sampled_from([0.0, 0.1, 0.2, 0.5]))
@settings(max_examples=50, deadline=None)
def test_forward__matches_plain_python(seed, share, trim):
    arguments = case(seed, share=share)
    assert PseudoLabelLoss(trim)(*arguments).item() == pytest.approx(plain_loss(*arguments, trim), rel=1e-12)


def test_forward__untrimmed_is_the_area_weighted_sum_of_both_regions():
    pred, target, _, region = case(shape=(1, 1, 7, 8))
    everywhere, part = torch.ones_like(region), region.double().mean()
    whole = PseudoLabelLoss(trim=0.0)(pred, target, everywhere, region)
    plain = AffineInvariantLoss()
    expected = part * plain(pred, target, region) + (1 - part) * plain(pred, target, ~region)
    torch.testing.assert_close(whole, expected)


def test_forward__without_cutmix_and_trimming_is_the_affine_invariant_loss():
    pred, target, valid, _ = case()
    whole = torch.ones_like(valid)
    expected = AffineInvariantLoss()(pred, target, valid)
    torch.testing.assert_close(PseudoLabelLoss(trim=0.0)(pred, target, valid, whole), expected)
    torch.testing.assert_close(PseudoLabelLoss(trim=0.0)(pred, target, valid, ~whole), expected)


@given(
    seed=st.integers(0, 10_000),
    scales=st.tuples(*[st.floats(0.1, 10)] * 2),
    shifts=st.tuples(*[st.floats(-5, 5)] * 2),
)
@settings(max_examples=30, deadline=None)
def test_forward__ignores_scale_and_shift_of_each_region(seed, scales, shifts):
    pred, target, valid, region = case(seed)
    loss = PseudoLabelLoss(trim=0.0)
    changed = torch.where(region, scales[0] * pred + shifts[0], scales[1] * pred + shifts[1])
    torch.testing.assert_close(loss(changed, target, valid, region), loss(pred, target, valid, region))


def test_forward__a_tenth_of_grossly_wrong_pixels_does_not_matter():
    pred = torch.linspace(0, 1, 100, dtype=torch.float64).view(1, 1, 10, 10)
    target = pred.clone()
    for row, columns in ((0, slice(5)), (9, slice(5, 10))):  # near and far swapped, which leaves the statistics
        target[0, 0, row, columns] = 1 - target[0, 0, row, columns]
    everywhere = torch.ones_like(target, dtype=torch.bool)
    trimmed, whole = (PseudoLabelLoss(trim)(pred, target, everywhere, everywhere) for trim in (0.1, 0.0))
    assert trimmed.item() == pytest.approx(0, abs=1e-12) and whole > 0.1


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_forward__invalid_pixels_reach_neither_value_nor_gradient(garbage):
    pred, target, valid, region = case()
    clean = pred.clone().requires_grad_()
    dirty = torch.where(valid, pred, garbage).requires_grad_()
    loss = PseudoLabelLoss()
    results = [loss(clean, target, valid, region), loss(dirty, torch.where(valid, target, garbage), valid, region)]
    for result in results:
        result.backward()
    assert torch.equal(*results)
    assert torch.equal(clean.grad, dirty.grad)


@pytest.mark.parametrize("trim", [0.0, 0.1])
def test_forward__empty_regions_and_images_add_nothing(trim):
    pred, target, valid, region = case()
    loss = PseudoLabelLoss(trim)
    valid[0] &= region[0]  # the pasted part holds no valid pixel
    assert loss(pred, target, valid, region).item() == pytest.approx(plain_loss(pred, target, valid, region, trim))
    pred = pred.requires_grad_()
    nothing = loss(pred, target, torch.zeros_like(valid), region)
    nothing.backward()
    assert nothing.item() == 0 and (pred.grad == 0).all()


@pytest.mark.parametrize("pixels", [1, 56])
def test_forward__a_broken_prediction_shows(pixels):
    pred, target, valid, region = case(share=2.0)
    pred[0].flatten()[:pixels] = torch.nan
    assert PseudoLabelLoss()(pred, target, valid, region).isnan()


def test_forward__ignores_the_order_of_images():
    arguments = case()
    loss = PseudoLabelLoss()
    torch.testing.assert_close(loss(*(x.flip(0) for x in arguments)), loss(*arguments))


def test_forward__gradient_matches_finite_differences():
    pred, target, valid, region = case(1, shape=(2, 1, 6, 7))
    assert torch.autograd.gradcheck(lambda x: PseudoLabelLoss()(x, target, valid, region), pred.requires_grad_())


def test_forward__is_float32_under_autocast():
    pred, target, valid, region = case(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        result = PseudoLabelLoss()(pred, target, valid, region)
    assert result.dtype == torch.float32
    assert torch.equal(result, PseudoLabelLoss()(pred.float(), target.float(), valid, region))


@pytest.mark.parametrize("trim", [-0.1, 0.6, 1.0])
def test_trim__out_of_range_is_refused(trim):
    with pytest.raises(UserError, match="trim in"):
        PseudoLabelLoss(trim)
