"""Metres from measured points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scene

from depth_anything_train.inference.calibration import Calibration, calibrate, read_points
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.runtime import UserError

DEPTH_M = (1 / scene(3)[1]).astype(np.float32)  # (42, 56): a floor from 20 m to 1 m, and a box


def measure(depth_m, count, seed):
    rng = np.random.default_rng(seed)
    height, width = depth_m.shape
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    return np.stack([columns, rows, depth_m[rows, columns]], axis=1).astype(np.float64)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_calibrate__a_relative_prediction_becomes_metres_though_a_quarter_of_the_points_is_wrong(scale, shift, seed):
    # Of twelve points, one draw in sixty has a line through wrong ones that costs less than the true one.
    points = measure(DEPTH_M, 24, seed)
    points[:6, 2] *= np.tile((2.0, 0.3, 5.0), 2)
    relative = Prediction(np.float32(scale) / DEPTH_M + np.float32(shift * scale))
    calibration = calibrate(relative, points)
    prediction = calibration(relative)
    assert prediction.kind == "metric" and calibration.error < 0.01
    assert np.median(np.abs(prediction.depth_m / DEPTH_M - 1)) < 0.01


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["relative", "metric"])
@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[1, 1, 1e300], [20, 30, 1e-310], [40, 10, 1e-310]], "these give no finite one|do not fit it so"),
        ([[1, 1, 1.0], [1e30, 1, 2.0]], "inside of 56 x 42 pixels, but got x=1e\\+30, y=1"),
    ],
)
def test_calibrate__numbers_that_no_photograph_has_are_refused_in_a_sentence(kind, points, said):
    with pytest.raises(UserError, match=said):
        calibrate(Prediction(DEPTH_M, kind), points)


def test_calibrate__two_points_determine_scale_and_shift():
    points = np.array([[0, 41, DEPTH_M[41, 0]], [0, 0, DEPTH_M[0, 0]]], np.float64)
    calibration = calibrate(Prediction(3 / DEPTH_M + 7), points)
    assert (calibration.scale, calibration.shift) == pytest.approx((1 / 3, -7 / 3), rel=1e-4)
    assert calibration.error < 1e-4


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_calibrate__a_metric_prediction_gets_one_factor(factor):
    points = measure(DEPTH_M, 7, seed=1)
    points[:3, 2] *= 10
    calibration = calibrate(Prediction(factor * DEPTH_M, "metric"), points)
    assert calibration.shift == 0
    np.testing.assert_allclose(calibration(Prediction(factor * DEPTH_M, "metric")).depth_m, DEPTH_M, rtol=1e-5)


def test_calibrate__of_many_points_tries_some_of_them():
    points = measure(DEPTH_M, 5000, seed=2)
    assert calibrate(Prediction(1 / DEPTH_M), points).scale == pytest.approx(1, rel=1e-4)


def test_calibration__behind_infinity_is_infinite():
    metres = Calibration(1.0, -1.0, 0.0)(Prediction(np.array([[3.0, 1.0, 0.5]], np.float32))).depth_m
    assert metres.tolist() == [[0.5, np.inf, np.inf]]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[0, 0, 2.0]], "at least 2 measured points"),
        ([[0, 0, 2.0], [9, 9, 2.0]], "at two depths at least"),
        ([[0, 0, 2.0], [0, 41, np.nan]], "finite numbers"),
        ([[0, 0, 2.0], [0, 41, -1.0]], "metres above 0"),
        ([[0, 0, 1.0], [0, 41, 20.0]], "nearer ones where the prediction is nearer"),  # the other way round
        ([[56, 0, 2.0], [0, 0, 1.0]], "inside of 56 x 42 pixels, but got x=56, y=0"),
    ],
)
def test_calibrate__says_what_is_wrong_with_the_points(points, message):
    with pytest.raises(UserError, match=message):
        calibrate(Prediction(1 / DEPTH_M), np.array(points, np.float64))


def test_calibrate__without_a_point_a_metric_prediction_is_refused_too():
    with pytest.raises(UserError, match="at least 1 measured points"):
        calibrate(Prediction(DEPTH_M, "metric"), np.zeros((0, 3)))


def test_read_points__by_photograph(tmp_path):
    file = tmp_path / "points.csv"
    file.write_text("photo,note,x,y,metres\na.jpg,door,1,2,3.5\nb/c.png,,4,5,6\na.jpg,wall,7,8,9\n")
    points = read_points(file, ["a.jpg", "b/c.png", "d.jpg"])
    assert {name: rows.tolist() for name, rows in points.items()} == {
        "a.jpg": [[1, 2, 3.5], [7, 8, 9]],
        "b/c.png": [[4, 5, 6]],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,x,y\n", "metres is missing"),
        ("", "photo is missing"),
        ("photo,x,y,metres\nz.jpg,1,2,3\n", "line 2 of .*'z.jpg'"),
        ("photo,x,y,metres\na.jpg,1,2,3\na.jpg,1,2,-3\n", "line 3 of"),
        ("photo,x,y,metres\na.jpg,1,2\n", "line 2 of"),
        ("photo,x,y,metres\na.jpg,1,two,3\n", "as numbers in line 2"),
        ("photo,x,y,metres\na.jpg,nan,2,3\n", "as numbers in line 2"),
    ],
)
def test_read_points__names_the_line_that_is_wrong(text, message, tmp_path):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "points.csv", ["a.jpg"])
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_points(tmp_path / "nothing.csv", ["a.jpg"])
