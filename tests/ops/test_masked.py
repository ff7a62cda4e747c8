import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.ops.masked import _median_by_sorting, masked_mean, masked_medians, masked_quantile


def masked_median(x, valid):
    return masked_medians([x], [valid])[0]


def random_case(seed, shape=(3, 1, 5, 7), share=0.6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, torch.rand(shape, generator=generator) < share


def valid_values(x, valid):
    return [sorted(one[mask].tolist()) for one, mask in zip(x, valid, strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_median__by_sorting_is_the_one_by_selection(share):
    x, valid = random_case(0, (7, 30), share)
    x = x.where(valid, torch.nan)
    (found, at), (expected, _) = _median_by_sorting(x), x.nanmedian(dim=1, keepdim=True)
    assert torch.equal(found.nan_to_num(-9), expected.nan_to_num(-9))
    assert torch.equal(x.gather(1, at).nan_to_num(-9), found.nan_to_num(-9))


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_mean_and_median__match_plain_python(seed, share):
    x, valid = random_case(seed, share=share)
    mean, median = masked_mean(x, valid), masked_median(x, valid)
    assert mean.shape == median.shape == (3, 1, 1, 1)
    for i, values in enumerate(valid_values(x, valid)):
        assert mean[i].item() == pytest.approx(sum(values) / len(values) if values else 0.0, abs=1e-14)
        assert median[i].item() == (values[(len(values) - 1) // 2] if values else 0.0)


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), tenths=st.integers(5, 9))
@settings(max_examples=50, deadline=None)
def test_quantile__is_the_element_of_rank_ceil_q_n(seed, share, tenths):
    x, valid = random_case(seed, shape=(3, 40), share=share)
    quantile = masked_quantile(x, valid, tenths / 10)
    assert quantile.shape == (3, 1)
    for i, values in enumerate(valid_values(x, valid)):
        rank = math.ceil(len(values) * tenths / 10 - 1e-9)
        assert quantile[i].item() == values[rank - 1] if values else quantile[i].isnan().item()


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 1000, 50_000])
def test_quantile__rounds_up_only_where_the_product_is_no_integer(count):
    x = torch.arange(1.0, count + 1)[None]
    assert masked_quantile(x, torch.ones_like(x, dtype=torch.bool), 0.9).item() == (9 * count + 9) // 10


@pytest.mark.parametrize("statistic", [masked_mean, masked_median])
def test_statistics__invalid_pixels_reach_neither_value_nor_gradient(statistic):
    x, valid = random_case(0)
    clean = x.clone().requires_grad_()
    dirty = torch.where(valid, x, torch.nan).requires_grad_()
    for case in (clean, dirty):
        statistic(case, valid).sum().backward()
    assert torch.equal(statistic(clean, valid), statistic(dirty, valid))
    assert torch.equal(clean.grad, dirty.grad)
    assert (dirty.grad[~valid] == 0).all()


def test_median__gives_its_gradient_to_the_median_pixel():
    x = torch.tensor([[3.0, 1.0, 2.0, 9.0]], requires_grad=True)
    masked_median(x, torch.tensor([[True, True, True, False]])).sum().backward()
    assert x.grad.tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("statistic", [masked_mean, masked_median])
def test_statistics__empty_mask_gives_zero_and_zero_gradient(statistic):
    x = torch.full((2, 3), torch.nan, requires_grad=True)
    result = statistic(x, torch.zeros(2, 3, dtype=torch.bool))
    result.sum().backward()
    assert result.tolist() == [[0], [0]]
    assert (x.grad == 0).all()
