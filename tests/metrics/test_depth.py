import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.metrics.depth import DepthProtocol, crop_window, evaluate_image, judged_pixels
from depth_anything_train.runtime import UserError

RELATIVE = DepthProtocol()


def maps(seed, shape=(12, 17)):
    """A label in 1/m with holes and sky, and a prediction that is related to it."""
    rng = np.random.default_rng(seed)
    label = rng.uniform(0.05, 2, shape).astype(np.float32)
    label[rng.random(shape) < 0.1] = 0
    valid = rng.random(shape) < 0.8
    prediction = (3 * label + rng.normal(0, 0.2, shape) + 5).astype(np.float32)
    return prediction, label, valid


def by_hand(prediction, label, valid, cap_m=None, min_depth_m=1e-3):
    """Least squares and AbsRel in both spaces, one pixel at a time, from the normal equations."""
    kept = []
    for p, d, v in zip(prediction.ravel(), label.ravel(), valid.ravel(), strict=True):
        p, d = float(p), float(d)
        if v and math.isfinite(d) and d > 0 and 1 / d > min_depth_m and (cap_m is None or 1 / d < cap_m):
            kept.append((p, d))
    n = len(kept)
    sp, sd = sum(p for p, _ in kept), sum(d for _, d in kept)
    spp, spd = sum(p * p for p, _ in kept), sum(p * d for p, d in kept)
    scale = (n * spd - sp * sd) / (n * spp - sp * sp)
    shift = (sd - scale * sp) / n
    floor = 1e-6 * max(d for _, d in kept)
    far = cap_m or max(1 / d for _, d in kept)
    disparity_error = depth_error = 0.0
    for p, d in kept:
        aligned = scale * p + shift
        disparity_error += abs(max(aligned, floor) - d) / d
        depth_error += abs(max(1 / max(aligned, 1 / far), min_depth_m) - 1 / d) * d
    return {"abs_rel": depth_error / n, "abs_rel_disparity": disparity_error / n, "pixels": n}


@pytest.mark.parametrize("cap_m", [None, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_evaluate_image__matches_the_formulas_pixel_by_pixel(seed, cap_m):
    prediction, label, valid = maps(seed)
    measures = evaluate_image(prediction, label, valid, DepthProtocol(cap_m=cap_m))
    expected = by_hand(prediction, label, valid, cap_m)
    assert {name: measures[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-50, 50), seed=st.integers(0, 100))
def test_least_squares__ignores_scale_and_shift_of_the_prediction(scale, shift, seed):
    prediction, label, valid = maps(seed)
    prediction = prediction.astype(np.float64)
    one = evaluate_image(prediction, label, valid, RELATIVE)
    other = evaluate_image(scale * prediction + shift, label, valid, RELATIVE)
    assert one["abs_rel"] == pytest.approx(other["abs_rel"], rel=1e-6)
    assert one["rmse"] == pytest.approx(other["rmse"], rel=1e-6)


@settings(deadline=None)
@given(scale=st.floats(0.01, 100))
def test_median__ignores_the_scale_of_the_prediction(scale):
    prediction, label, valid = maps(0)
    protocol = DepthProtocol(alignment="median")
    one = evaluate_image(prediction.astype(np.float64), label, valid, protocol)
    other = evaluate_image(scale * prediction.astype(np.float64), label, valid, protocol)
    assert one["abs_rel"] == pytest.approx(other["abs_rel"], rel=1e-9)


def test_evaluate_image__ignores_what_stands_at_invalid_pixels():
    prediction, label, valid = maps(1)
    before = evaluate_image(prediction, label, valid, RELATIVE)
    prediction[~valid] = np.nan
    label[~valid] = np.inf
    assert evaluate_image(prediction, label, valid, RELATIVE) == before


def test_evaluate_image__does_not_judge_sky():
    prediction, label, valid = maps(2)
    with_sky = evaluate_image(prediction, label, valid, RELATIVE)
    assert with_sky == evaluate_image(prediction, label, valid & (label > 0), RELATIVE)
    assert evaluate_image(prediction, np.zeros_like(label), valid, RELATIVE) is None


@pytest.mark.parametrize("pixels", [0, 1])
def test_evaluate_image__has_nothing_to_say_about_too_few_pixels(pixels):
    prediction, label, _ = maps(3)
    valid = np.zeros(label.shape, bool)
    valid.flat[np.flatnonzero(label)[:pixels]] = True
    assert evaluate_image(prediction, label, valid, RELATIVE) is None


def test_evaluate_image__two_pixels_are_fitted_exactly():
    prediction, label, _ = maps(4)
    valid = np.zeros(label.shape, bool)
    valid.flat[np.flatnonzero(label)[:2]] = True
    measures = evaluate_image(prediction, label, valid, RELATIVE)
    assert measures["pixels"] == 2
    assert measures["abs_rel"] == pytest.approx(0, abs=1e-9)


def test_evaluate_image__constant_prediction_becomes_the_mean_disparity():
    _, label, valid = maps(5)
    measures = evaluate_image(np.full(label.shape, 0.1), label, valid, RELATIVE)
    judged = label[valid & (label > 0)].astype(np.float64)
    expected = np.mean(np.abs(1 / judged.mean() - 1 / judged) * judged)
    assert measures["abs_rel"] == pytest.approx(expected, rel=1e-9)


def test_evaluate_image__negative_aligned_disparity_is_the_far_end_of_the_range():
    label = np.array([[1.0, 1.0, 1.0, 0.02]])
    prediction = np.array([[1.0, 1.0, 2.0, 0.0]])  # the line through these is below zero at prediction 0
    judged = np.ones((1, 4), bool)
    measures = evaluate_image(prediction, label, judged, DepthProtocol(cap_m=80.0))
    slope, offset = np.polyfit(prediction[0], label[0], 1)
    aligned = slope * prediction[0] + offset
    depth = np.where(aligned > 1 / 80, 1 / aligned, 80.0)
    assert measures["abs_rel"] == pytest.approx(np.mean(np.abs(depth - 1 / label[0]) * label[0]))
    assert all(math.isfinite(value) for value in measures.values())


def test_evaluate_image__labels_without_metres_ignore_metres():
    prediction, label, valid = maps(6)
    strict = DepthProtocol(min_depth_m=5.0, cap_m=6.0)
    one = evaluate_image(prediction, label, valid, strict, unit="unknown")
    other = evaluate_image(prediction, label * 1000, valid, strict, unit="px")
    assert one == pytest.approx(other, rel=1e-5)
    assert "rmse" not in one and "sq_rel" not in one
    assert "rmse" in evaluate_image(prediction, label, valid, RELATIVE, unit="m")


def test_evaluate_image__takes_a_metric_model_at_its_word():
    _, label, valid = maps(7)
    measures = evaluate_image(label * 2, label, valid, DepthProtocol(alignment="none"))
    assert measures["abs_rel"] == pytest.approx(0.5)  # every depth is half the true one
    assert measures["abs_rel_disparity"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="judges metres"):
        evaluate_image(label, label, valid, DepthProtocol(alignment="none"), unit="px")


def test_evaluate_image__a_prediction_nearer_than_the_range_counts_as_its_near_end():
    _, label, valid = maps(7)
    protocol = DepthProtocol(alignment="none", min_depth_m=0.02)
    measures = evaluate_image(label * 1e6, label, valid, protocol)
    judged = label[judged_pixels(label, valid, protocol)]
    assert measures["abs_rel"] == pytest.approx(np.mean(np.abs(0.02 - 1 / judged) * judged), rel=1e-5)


def test_evaluate_image__refuses_predictions_that_are_not_finite_or_of_another_size():
    prediction, label, valid = maps(8)
    with pytest.raises(UserError, match="one size"):
        evaluate_image(prediction[:-1], label, valid, RELATIVE)
    prediction[:] = np.nan
    with pytest.raises(UserError, match="finite"):
        evaluate_image(prediction, label, valid, RELATIVE)


def test_judged_pixels__are_strictly_inside_the_range():
    label = np.float32(1) / np.array([[0.5, 1.0, 5.0, 10.0, 20.0]], np.float32)
    judged = judged_pixels(label, np.ones(label.shape, bool), DepthProtocol(min_depth_m=0.5, cap_m=10.0))
    assert judged.tolist() == [[False, True, True, False, False]]
    assert judged_pixels(label, np.ones(label.shape, bool), RELATIVE).all()


@pytest.mark.parametrize(
    ("crop", "height", "width", "rows", "columns"),
    [
        ("eigen_nyu", 480, 640, (45, 471), (41, 601)),
        ("garg", 375, 1242, (153, 371), (44, 1197)),
        ("garg", 352, 1216, (143, 349), (43, 1172)),
        ("eigen_kitti", 375, 1242, (124, 342), (44, 1197)),
        ("none", 7, 9, (0, 7), (0, 9)),
    ],
)
def test_crop_window__has_the_published_rows_and_columns(crop, height, width, rows, columns):
    assert crop_window(crop, height, width) == (slice(*rows), slice(*columns))


def test_crop__only_pixels_inside_count():
    prediction, label, valid = maps(9, (48, 64))
    inside = np.zeros(label.shape, bool)
    inside[4:47, 4:60] = True
    assert evaluate_image(prediction, label, valid, DepthProtocol(crop="eigen_nyu")) == evaluate_image(
        prediction, label, valid & inside, RELATIVE
    )


@pytest.mark.parametrize(
    "wrong", [{"alignment": "mean"}, {"crop": "middle"}, {"min_depth_m": 0.0}, {"min_depth_m": 9.0, "cap_m": 8.0}]
)
def test_protocol__refuses_what_it_does_not_know(wrong):
    with pytest.raises(UserError, match="Expected"):
        DepthProtocol(**wrong)


def test_protocol__says_everything_that_decides_a_number():
    text = DepthProtocol("nyu", cap_m=10.0, crop="eigen_nyu").describe()
    assert all(part in text for part in ("nyu", "least squares in inverse depth", "0.001 m", "10 m", "eigen_nyu"))
