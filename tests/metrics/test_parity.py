"""Whole images judged against an independent implementation: plain NumPy in float64, written from the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image

WINDOWS = {"none": (0, 1, 0, 1), "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229)}


def reference(disparity, label, valid, protocol):
    """Every measure of one image; None where nothing can be judged."""
    height, width = label.shape
    top, bottom, left, right = WINDOWS[protocol.crop]
    inside = np.zeros(label.shape, bool)
    inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    depth = np.full(label.shape, np.inf)
    usable = inside & valid & np.isfinite(label) & (label > 0)
    depth[usable] = 1 / label[usable].astype(np.float64)
    usable &= (depth > protocol.min_depth_m) & (depth < (protocol.cap_m or np.inf))
    gt, d, p = depth[usable], label[usable].astype(np.float64), disparity[usable].astype(np.float64)
    if protocol.alignment == "least_squares_disparity":
        if len(gt) < 2:
            return None
        # The minimum-norm solution about the means: a constant prediction becomes the mean of the label.
        (scale,), *_ = np.linalg.lstsq((p - p.mean())[:, None], d - d.mean(), rcond=None)
        p = scale * (p - p.mean()) + d.mean()
    elif len(gt) == 0:
        return None
    elif protocol.alignment == "median":
        p = p * (np.median(d) / np.median(p))
    far = protocol.cap_m or gt.max()
    z = np.clip(np.where(p > 0, 1 / np.where(p > 0, p, 1), np.inf), protocol.min_depth_m, far)
    thresh, log_error = np.maximum(z / gt, gt / z), np.log(z) - np.log(gt)
    q = np.maximum(p, 1e-6 * d.max())
    return {
        "pixels": len(gt),
        "abs_rel": np.mean(np.abs(gt - z) / gt),
        "sq_rel": np.mean((gt - z) ** 2 / gt),
        "rmse": np.sqrt(np.mean((gt - z) ** 2)),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "silog": 100 * np.std(log_error),
        "log10": np.mean(np.abs(np.log10(z) - np.log10(gt))),
        "delta1": np.mean(thresh < 1.25),
        "delta2": np.mean(thresh < 1.25**2),
        "delta3": np.mean(thresh < 1.25**3),
        "abs_rel_disparity": np.mean(np.abs(q - d) / d),
        "delta1_disparity": np.mean(np.maximum(q / d, d / q) < 1.25),
    }


def image(seed, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    depth_m = rng.uniform(0.5, 120, shape)
    label = np.where(rng.random(shape) < 0.1, 0, 1 / depth_m).astype(np.float32)  # sky
    valid = rng.random(shape) < 0.7
    return (label * 2.5 + rng.uniform(0.01, 0.6, shape)).astype(np.float32), label, valid


def one_pixel(disparity, label, valid):
    keep = np.zeros_like(valid)
    keep.flat[np.flatnonzero(label > 1 / 70)[:1]] = True
    return disparity, label, keep


CASES = {
    "as it is": lambda *maps: maps,
    "one valid pixel": one_pixel,
    "all invalid": lambda disparity, label, valid: (disparity, label, np.zeros_like(valid)),
    "all sky": lambda disparity, label, valid: (disparity, np.zeros_like(label), valid),
    "constant prediction": lambda disparity, label, valid: (np.full_like(disparity, 0.3), label, valid),
    "mostly far below zero": lambda disparity, label, valid: (np.where(label > 0.2, disparity, 0.001), label, valid),
    "unrelated prediction": lambda disparity, label, valid: (disparity[::-1].copy(), label, valid),
    "not finite where invalid": lambda disparity, label, valid: (np.where(valid, disparity, np.nan), label, valid),
}
PROTOCOLS = [
    DepthProtocol(alignment=alignment, cap_m=cap_m, crop=crop)
    for alignment in ("least_squares_disparity", "median", "none")
    for cap_m, crop in ((None, "none"), (80.0, "garg"))
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.alignment}-{p.crop}")
def test_evaluate_image__equals_an_independent_float64_implementation(protocol, case):
    for seed in range(3):
        maps = CASES[case](*image(seed))
        measures, expected = evaluate_image(*maps, protocol), reference(*maps, protocol)
        assert (measures is None) == (expected is None)
        if expected is not None:
            assert measures == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_evaluate_image__some_case_has_aligned_disparity_below_zero():
    disparity, label, valid = CASES["unrelated prediction"](*image(0))
    label = np.where(label > 0.1, np.float32(3), label)
    disparity = np.where(label == 3, np.float32(9), disparity)
    keep = valid & (label > 0)
    slope, offset = np.polyfit(disparity[keep].astype(float), label[keep].astype(float), 1)
    assert (slope * disparity[keep] + offset).min() < 0
    for protocol in PROTOCOLS[:2]:
        expected = reference(disparity, label, valid, protocol)
        assert evaluate_image(disparity, label, valid, protocol) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), turns=st.sampled_from(["horizontal", "vertical", "shuffled"]))
def test_evaluate_image__does_not_see_where_a_pixel_stands(seed, turns):
    order = np.random.default_rng(seed).permutation(23 * 31)
    move = {
        "horizontal": lambda x: x[:, ::-1],
        "vertical": lambda x: x[::-1],
        "shuffled": lambda x: x.ravel()[order].reshape(x.shape),
    }[turns]
    maps = image(seed)
    moved = [np.ascontiguousarray(move(x)) for x in maps]
    assert evaluate_image(*moved, DepthProtocol()) == pytest.approx(
        evaluate_image(*maps, DepthProtocol()), rel=1e-9, abs=1e-12
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.floats(0.01, 100))
def test_evaluate_image__without_a_cap_does_not_see_the_unit_of_the_label(seed, unit):
    disparity, label, valid = (x.astype(np.float64) if x.dtype != bool else x for x in image(seed))
    one = evaluate_image(disparity, label, valid, DepthProtocol(), unit="unknown")
    other = evaluate_image(disparity, label * unit, valid, DepthProtocol(), unit="unknown")
    smooth = [name for name in one if not name.startswith("delta")]  # a pixel on a threshold may fall on either side
    assert [one[name] for name in smooth] == pytest.approx([other[name] for name in smooth], rel=1e-6, abs=1e-9)


def test_moge__floor_is_the_farthest_label():
    label = np.array([[1.0, 1.0, 1.0, 0.02]])
    disparity = np.array([[1.0, 1.0, 2.0, 0.0]])  # the line through these is below zero at prediction 0
    measures = evaluate_image(disparity, label, np.ones((1, 4), bool), DepthProtocol(family="moge"))
    slope, offset = np.polyfit(disparity[0], label[0], 1)
    z = 1 / np.maximum(slope * disparity[0] + offset, 0.02)  # 1 / max(gt depth)
    assert measures["abs_rel"] == pytest.approx(np.mean(np.abs(z - 1 / label[0]) * label[0]))
