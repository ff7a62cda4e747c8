"""Sixteen bits in a PNG that says what they are."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest
from scenes import scene

from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.png16 import describe_16bit, to_16bit, with_texts
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.ops.png import encode_png


@pytest.fixture
def photo():
    image, disparity = scene(0)
    return image, Prediction(disparity)


def test_to_16bit__is_millimetres_of_a_metric_model():
    assert to_16bit(Prediction(np.array([[1.5, 99.0]], np.float32), "metric")).tolist() == [[1500, 65535]]


def test_to_16bit__of_a_model_that_sees_farther_has_the_steps_of_kitti():
    values = np.array([[1.5, 80.0, 300.0]], np.float32)
    for farthest_m, levels, scale in ((80.0, [384, 20480, 65535], "0.00390625"), (65.0, [1500, 65535, 65535], "0.001")):
        prediction = Prediction(values, "metric", farthest_m).resized(1, 3)
        assert to_16bit(prediction).tolist() == [levels] and describe_16bit(prediction)["scale"] == scale


def test_to_16bit__of_a_relative_model_takes_the_whole_range(photo):
    levels = to_16bit(photo[1])
    assert levels.min() == 0 and levels.max() == 65535
    back = levels / 65535 * np.ptp(photo[1].disparity) + photo[1].disparity.min()
    assert np.abs(back - photo[1].disparity).max() <= np.ptp(photo[1].disparity) / 65535


def test_to_16bit__of_a_constant_map_is_no_division_by_zero():
    for level in (0.0, 3.0):
        assert to_16bit(Prediction(np.full((2, 2), level, np.float32))).max() == 0


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("relative", {"quantity": "relative disparity", "unit": "none", "near_is": "large"}),
        ("metric", {"quantity": "depth", "unit": "m", "near_is": "small"}),
    ],
)
def test_16bit__the_file_says_what_it_holds_and_gives_the_values_back(photo, tmp_path, kind, meaning):
    prediction = Prediction(2 * photo[1].values + 3, kind)
    (path,) = Outputs(("16bit",)).write(tmp_path / "a", photo[0], prediction)
    with PIL.Image.open(path) as png:
        texts, levels = png.text, np.asarray(png)
    assert (levels == to_16bit(prediction)).all()
    assert meaning.items() <= texts.items()
    back = levels * float(texts["scale"]) + float(texts["offset"])
    assert np.abs(back - prediction.values).max() <= 0.51 * float(texts["scale"])


def test_encode_png__is_read_back_as_it_was():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    levels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000
    decoded = [cv2.imdecode(np.frombuffer(encode_png(p), np.uint8), -1) for p in (picture, levels)]
    assert (decoded[0][..., ::-1] == picture).all()
    assert (decoded[1] == levels).all() and decoded[1].dtype == np.uint16


def test_with_texts__change_no_pixel_and_every_checksum_is_right():
    levels = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000
    data = with_texts(encode_png(levels), {"unit": "m", "scale": "0.001"})
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), -1) == levels).all()
    with PIL.Image.open(io.BytesIO(data)) as png:
        assert png.text == {"unit": "m", "scale": "0.001"}
    with PIL.Image.open(io.BytesIO(data)) as png:
        png.verify()  # every chunk against its checksum
