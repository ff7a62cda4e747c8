import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.ops.alignment import least_squares_scale_shift, robust_normalize


def maps(seed, shape=(2, 1, 6, 5), share=0.7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, *shape, generator=generator, dtype=dtype)
    valid = torch.rand(shape, generator=generator) < share
    valid[:, 0, 0, :3] = True
    return a, b, valid


def test_robust_normalize__has_median_zero_and_deviation_one():
    x, _, valid = maps(0)
    normalized = robust_normalize(x, valid)
    for one, mask in zip(normalized, valid, strict=True):
        assert one[mask].median().item() == 0
        assert one[mask].abs().mean().item() == pytest.approx(1)
        assert (one[~mask] == 0).all()


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_robust_normalize__ignores_scale_and_shift(seed, scale, shift):
    x, _, valid = maps(seed)
    torch.testing.assert_close(robust_normalize(scale * x + shift, valid), robust_normalize(x, valid))


def test_robust_normalize__constant_map_becomes_zero():
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert (robust_normalize(torch.full((1, 1, 4, 4), 0.3), valid) == 0).all()


def test_robust_normalize__gradient_matches_finite_differences():
    x, _, valid = maps(3)
    assert torch.autograd.gradcheck(lambda x: robust_normalize(x, valid), x.requires_grad_())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_least_squares__matches_numpy(seed):
    prediction, target, valid = maps(seed)
    scale, shift = least_squares_scale_shift(prediction, target, valid)
    assert scale.shape == shift.shape == (2, 1, 1, 1)
    for i in range(2):
        columns = np.stack([prediction[i][valid[i]].numpy(), np.ones(int(valid[i].sum()))], axis=1)
        expected, *_ = np.linalg.lstsq(columns, target[i][valid[i]].numpy(), rcond=None)
        np.testing.assert_allclose([scale[i].item(), shift[i].item()], expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000), scale=st.floats(-50, 50), shift=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_least_squares__recovers_scale_and_shift(seed, scale, shift):
    prediction, _, valid = maps(seed)
    target = torch.where(valid, scale * prediction + shift, torch.nan)
    found = least_squares_scale_shift(torch.where(valid, prediction, torch.inf), target, valid)
    for value, expected in zip(found, (scale, shift), strict=True):
        torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-9, atol=1e-9)


def test_least_squares__is_accurate_in_float32_far_from_zero():
    prediction, _, valid = maps(0, shape=(1, 1, 300, 300), dtype=torch.float32)
    prediction = prediction + 1000
    scale, shift = least_squares_scale_shift(prediction, 2 * (prediction - 1000), valid)
    assert (scale * prediction + shift - 2 * (prediction - 1000)).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [7.0, 0.1, 0.3, -1e-5, 0.0])
def test_least_squares__constant_prediction_gets_the_mean_of_the_target(value, dtype):
    _, target, valid = maps(3, shape=(1, 1, 90, 90), dtype=dtype)
    scale, shift = least_squares_scale_shift(torch.full_like(target, value), target, valid)
    assert scale.item() == 0 and shift.item() == pytest.approx(target[valid].mean().item(), rel=1e-5)


def test_least_squares__a_prediction_that_hardly_varies_is_none_that_is_constant():
    ramp = torch.linspace(0, 1, 100, dtype=torch.float64).view(1, 1, 10, 10)
    scale, _ = least_squares_scale_shift(1 + 1e-9 * ramp, ramp, torch.ones_like(ramp).bool())
    assert scale.item() == pytest.approx(1e9, rel=1e-5)


def test_least_squares__image_without_valid_pixels_gets_zeros():
    scale, shift = least_squares_scale_shift(*torch.full((2, 1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2).bool())
    assert (scale.item(), shift.item()) == (0, 0)
