"""SILog beside both published formulas in float64."""

import numpy as np
import pytest
import torch

from depth_anything_train.losses.silog import SILog
from depth_anything_train.runtime import UserError

ZOE = dict(factor=10.0, keep=0.15, unbiased=True)
V2 = dict(factor=1.0, keep=0.5, unbiased=False)


def maps(seed=0, share=0.7):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.rand(2, 3, 1, 9, 11, generator=generator) * 20 + 0.01
    return pred, target, torch.rand(3, 1, 9, 11, generator=generator) < share


def slow_zoe(pred, target, valid):
    g = np.log(pred[valid].astype(np.float64) + 1e-7) - np.log(target[valid].astype(np.float64) + 1e-7)
    return 10 * np.sqrt(np.var(g, ddof=1) + 0.15 * np.mean(g) ** 2)


def slow_v2(pred, target, valid):
    d = np.log(target[valid].astype(np.float64)) - np.log(pred[valid].astype(np.float64))
    return np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2)


@pytest.mark.parametrize("settings, slow", [(ZOE, slow_zoe), (V2, slow_v2)], ids=["zoe", "v2"])
@pytest.mark.parametrize("seed", range(3))
def test_silog__equals_the_published_form(settings, slow, seed):
    pred, target, valid = maps(seed)
    assert SILog(**settings)(pred, target, valid).item() == pytest.approx(
        slow(*(x.numpy() for x in (pred, target, valid))), rel=1e-5
    )


@pytest.mark.parametrize("settings", [ZOE, V2], ids=["zoe", "v2"])
@pytest.mark.parametrize("pixels", [0, 1])
def test_silog__a_batch_without_two_valid_pixels_adds_nothing(settings, pixels):
    pred, target, valid = maps()
    valid = torch.arange(valid.numel()).view(valid.shape) < pixels
    pred.requires_grad_()
    loss = SILog(**settings)(pred, target, valid)
    loss.backward()
    assert loss == 0 and (pred.grad == 0).all()


@pytest.mark.parametrize("settings", [ZOE, V2], ids=["zoe", "v2"])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 0.0, -3.0])
def test_silog__what_stands_at_invalid_pixels_reaches_neither_value_nor_gradient(settings, garbage):
    pred, target, valid = maps()
    results = []
    for filling in (1.0, garbage):
        filled = pred.where(valid, torch.tensor(filling)).requires_grad_()
        loss = SILog(**settings)(filled, target.where(valid, torch.tensor(filling)), valid)
        loss.backward()
        results.append((loss.detach(), filled.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_silog__a_perfect_prediction_has_a_finite_gradient():
    _, target, valid = maps()
    pred = target.clone().requires_grad_()
    loss = SILog(**ZOE)(pred, target, valid)
    loss.backward()
    assert loss == 0 and pred.grad.isfinite().all()


def test_silog__a_wrong_unit_costs():
    _, target, valid = maps()
    assert SILog(**ZOE)(1000 * target, target, valid) > 20
    assert SILog(**(ZOE | {"keep": 0.0}))(1000 * target, target, valid) < 1e-2


def test_silog__is_float32_under_autocast():
    pred, target, valid = maps()
    with torch.autocast("cpu", torch.bfloat16):
        loss = SILog(**ZOE)(pred.bfloat16(), target, valid)
    assert loss.dtype == torch.float32


def test_silog__settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="keep in 0 to 1"):
        SILog(keep=2.0)
