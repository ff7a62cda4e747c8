import numpy as np
import pytest

from depth_anything_train.data import test_sets
from depth_anything_train.evaluation.examples import placed
from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image, judged_pixels

PROTOCOLS = [
    DepthProtocol(),
    DepthProtocol(cap_m=10.0),
    DepthProtocol(alignment="median"),
    DepthProtocol(alignment="none"),
]


@pytest.mark.parametrize(
    ("protocol", "unit"),
    [(protocol, unit) for protocol in PROTOCOLS for unit in ("m", "px") if unit == "m" or protocol.alignment != "none"],
)
def test_placed__the_mean_of_the_error_picture_is_the_number_below_it(protocol, unit):
    """Also where an aligned prediction comes out negative, which is taken for the farthest depth that counts."""
    rng = np.random.default_rng(0)
    disparity = rng.uniform(0.01, 2, (30, 40)).astype(np.float32)
    label = (disparity - 0.4 + rng.normal(0, 0.05, disparity.shape)).clip(0.15).astype(np.float32)
    valid = rng.random(disparity.shape) < 0.8
    sample = test_sets.TestSample("set", "key", np.zeros((30, 40, 3), np.uint8), label, valid, unit)
    judged = judged_pixels(label, valid, protocol, unit)
    whole, error = placed(disparity, sample, judged, protocol)
    if protocol.alignment == "least_squares_disparity":
        assert whole[judged].min() < 0
    measures = evaluate_image(disparity, label, valid, protocol, unit=unit)
    assert error[judged].mean() == pytest.approx(measures["abs_rel"], rel=1e-12) and not error[~judged].any()


def test_placed__without_a_judged_pixel_the_prediction_stays_as_it_is():
    disparity, nowhere = np.ones((4, 5), np.float32), np.zeros((4, 5), bool)
    sample = test_sets.TestSample("set", "key", np.zeros((4, 5, 3), np.uint8), disparity, nowhere, "m")
    whole, error = placed(disparity, sample, nowhere, DepthProtocol())
    assert np.array_equal(whole, disparity) and not error.any()
