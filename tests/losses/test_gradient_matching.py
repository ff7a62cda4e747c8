import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.losses.gradient_matching import GradientMatchingLoss
from depth_anything_train.runtime import UserError


def normalized(image, mask):
    values = image[mask].tolist()
    median = statistics.median_low(values)
    spread = max(sum(abs(v - median) for v in values) / len(values), 1e-6)
    return (image - median) / spread


def plain_loss(pred, target, valid, scales, region=None):
    total = 0.0
    region = torch.ones_like(valid) if region is None else region
    for a, b, mask, own in zip(pred[:, 0], target[:, 0], valid[:, 0], region[:, 0], strict=True):
        whole = torch.zeros_like(a)
        for part in (mask & own, mask & ~own):
            if part.any():
                whole[part] = (normalized(a, part) - normalized(b, part))[part]
        for scale in range(scales):
            step = 2**scale
            residual, inside, side = whole[::step, ::step], mask[::step, ::step], own[::step, ::step]
            height, width = residual.shape
            roughness = 0.0
            for y in range(height):
                for x in range(width):
                    for j, i in ((y, x + 1), (y + 1, x)):
                        if j < height and i < width and inside[y, x] and inside[j, i] and side[y, x] == side[j, i]:
                            roughness += abs(residual[y, x] - residual[j, i]).item()
            total += roughness / max(int(inside.sum()), 1)
    return total / len(pred)


def case(seed=0, shape=(2, 1, 9, 11), share=0.8):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return pred, target, torch.rand(shape, generator=generator) < share


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), scales=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_forward__matches_plain_python(seed, share, scales):
    arguments = case(seed, share=share)
    expected = plain_loss(*arguments, scales)
    assert GradientMatchingLoss(scales)(*arguments).item() == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), scales=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_forward__matches_plain_python_inside_regions(seed, share, scales):
    arguments = case(seed, share=share)
    region = torch.ones_like(arguments[2])
    region[0, :, 2:7, 3:9] = False
    expected = plain_loss(*arguments, scales, region)
    assert GradientMatchingLoss(scales)(*arguments, region).item() == pytest.approx(expected, rel=1e-12)


def test_forward__the_border_of_a_pasted_region_is_no_edge():
    """Two images pasted together, both predicted up to a scale and shift of their own."""
    target, _, valid = case(share=1.0)
    region = torch.ones_like(valid)
    region[..., 2:7, 3:9] = False
    pred = torch.where(region, 2 * target, 5 * target + 7)
    assert GradientMatchingLoss()(pred, target, valid, region).item() == pytest.approx(0, abs=1e-13)
    assert GradientMatchingLoss()(pred, target, valid).item() > 0.1


def test_forward__is_zero_for_an_affine_copy():
    pred, _, valid = case()
    assert GradientMatchingLoss()(pred, 3 * pred - 1, valid).item() == pytest.approx(0, abs=1e-13)


def test_forward__sees_an_edge_that_the_prediction_blurs():
    target = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    target[..., 8:] = 1
    ramp = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 1, 8, 16)
    everywhere = torch.ones_like(target, dtype=torch.bool)
    blurred, exact = (GradientMatchingLoss()(pred, target, everywhere) for pred in (ramp, target))
    assert exact == 0 and blurred > 0.1


def test_forward__invalid_pixels_reach_neither_value_nor_gradient():
    pred, target, valid = case()
    clean, dirty = pred.clone().requires_grad_(), torch.where(valid, pred, torch.nan).requires_grad_()
    loss = GradientMatchingLoss()
    results = [loss(clean, target, valid), loss(dirty, torch.where(valid, target, torch.nan), valid)]
    for result in results:
        result.backward()
    assert torch.equal(*results)
    assert torch.equal(clean.grad, dirty.grad)


def test_forward__without_valid_pixels_is_an_attached_zero():
    pred = torch.rand(1, 1, 8, 8, requires_grad=True)
    result = GradientMatchingLoss()(pred, torch.rand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    result.backward()
    assert result.item() == 0 and (pred.grad == 0).all()


def test_forward__gradient_matches_finite_differences():
    pred, target, valid = case(2, shape=(1, 1, 5, 6))
    loss = GradientMatchingLoss(scales=2)
    assert torch.autograd.gradcheck(lambda pred: loss(pred, target, valid), pred.requires_grad_())


@pytest.mark.parametrize("scales", [0, 1.5])
def test_scales__without_one_there_is_nothing_to_compare(scales):
    with pytest.raises(UserError, match="Expected gradient.scales to be a whole number of at least 1"):
        GradientMatchingLoss(scales)
