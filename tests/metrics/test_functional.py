import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depth_anything_train.metrics import functional

MEASURES = functional.RATIO_METRICS | functional.UNIT_METRICS

depths = st.floats(1e-3, 1e3, allow_nan=False)
pairs = st.lists(st.tuples(depths, depths), min_size=1, max_size=30)


def by_hand(name, predicted, truth):
    """The formulas, one pixel at a time."""
    n = len(truth)
    logs = [math.log(p) - math.log(t) for p, t in zip(predicted, truth, strict=True)]
    if name == "abs_rel":
        return sum(abs(t - p) / t for p, t in zip(predicted, truth, strict=True)) / n
    if name == "sq_rel":
        return sum((t - p) ** 2 / t for p, t in zip(predicted, truth, strict=True)) / n
    if name == "rmse":
        return math.sqrt(sum((t - p) ** 2 for p, t in zip(predicted, truth, strict=True)) / n)
    if name == "rmse_log":
        return math.sqrt(sum(e * e for e in logs) / n)
    if name == "silog":
        exact = [Fraction(e) for e in logs]  # mean(e^2) - mean(e)^2 cancels
        return 100 * math.sqrt(sum(e * e for e in exact) / n - (sum(exact) / n) ** 2)
    if name == "log10":
        return sum(abs(math.log10(t) - math.log10(p)) for p, t in zip(predicted, truth, strict=True)) / n
    power = int(name[-1])
    return sum(max(t / p, p / t) < 1.25**power for p, t in zip(predicted, truth, strict=True)) / n


def vectors(values):
    return tuple(torch.tensor(column, dtype=torch.float64) for column in zip(*values, strict=True))


@pytest.mark.parametrize("name", MEASURES)
@given(values=pairs)
def test_measure__matches_the_formula_pixel_by_pixel(name, values):
    expected = by_hand(name, *zip(*values, strict=True))
    assert MEASURES[name](*vectors(values)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_measure__of_a_perfect_prediction(name):
    truth = torch.linspace(0.5, 80, 100, dtype=torch.float64)
    assert MEASURES[name](truth, truth) == (1 if name in functional.HIGHER_IS_BETTER else 0)


@pytest.mark.parametrize("name", functional.RATIO_METRICS)
@given(values=pairs, scale=st.floats(0.01, 100))
def test_ratio_measure__does_not_see_a_common_unit(name, values, scale):
    predicted, truth = vectors(values)
    ratio = (predicted / truth).maximum(truth / predicted)
    near_a_threshold = any(((ratio - 1.25**k).abs() < 1e-9).any() for k in (1, 2, 3))
    if not near_a_threshold:
        measure = functional.RATIO_METRICS[name]
        assert measure(scale * predicted, scale * truth) == pytest.approx(measure(predicted, truth), rel=1e-6, abs=1e-6)


def test_silog__does_not_see_the_scale_of_the_prediction():
    predicted, truth = vectors([(1.0, 2.0), (3.0, 2.5), (7.0, 9.0)])
    assert functional.silog(predicted * 3, truth) == pytest.approx(functional.silog(predicted, truth))


def test_delta__excludes_the_threshold_itself():
    assert functional.delta1(*vectors([(1.25, 1.0), (1.2, 1.0)])) == 0.5
