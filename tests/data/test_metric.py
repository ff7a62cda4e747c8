"""Labels in metres from shards, and KITTI's window."""

import json

import numpy as np
import pytest
from pictures import picture, png, write_folder

from depth_anything_train.data.labels import encode_dz16
from depth_anything_train.data.metric import MetricSource, kb_crop
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def folder(path, depth_m, *, unit="m"):
    """One sample whose label holds the given metres, 0 unknown."""
    depth_m = np.asarray(depth_m, np.float32)
    disparity = np.divide(1, depth_m, out=np.zeros_like(depth_m), where=depth_m > 0)
    members = {
        "png": png(picture(0)),
        "disparity.dz16": encode_dz16(disparity, depth_m > 0),
        "json": json.dumps({"unit": unit, "scale": 1.0}).encode(),
    }
    return write_folder(path, {"kind": "labelled"}, [[("a", members)]])


def ramp(low=1.0, high=60.0):
    height, width = picture(0).shape[:2]
    return np.linspace(low, high, height * width).reshape(height, width)


def source(path, **options):
    return MetricSource([path], **{"min_depth_m": 0.001, "max_depth_m": 40.0, **options})


def test_load__keeps_metres_and_what_lies_in_the_range(tmp_path):
    depth_m = ramp()
    sample = source(folder(tmp_path / "s", depth_m), min_depth_m=5.0).load(0)
    assert np.array_equal(sample["valid"], (depth_m > 5) & (depth_m < 40))
    np.testing.assert_allclose(1 / sample["disparity"][sample["valid"]], depth_m[sample["valid"]], rtol=1e-3)
    assert (sample["disparity"][~sample["valid"]] == 0).all()


def test_load__another_unit_than_metres_stops(tmp_path):
    with pytest.raises(UserError, match="labels in metres.*unit=px") as error:
        source(folder(tmp_path / "s", ramp(), unit="px")).load(0)
    assert not isinstance(error.value, BadSample)


def test_load__a_wrong_scale_shows_by_its_median(tmp_path):
    with pytest.raises(BadSample, match=r"median is 3\.\d+e\+04 m; is its unit") as error:
        source(folder(tmp_path / "s", 1000 * ramp(2, 59))).load(0)
    assert error.value.reason == "no_valid_pixel"


@pytest.mark.parametrize("options, message", [({"min_depth_m": 50.0}, "min_depth_m"), ({"crop": "garg"}, "none, kb")])
def test_source__what_cannot_be_is_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        source(folder(tmp_path / "s", ramp()), **options)


def test_kb_crop__is_the_bottom_and_the_middle():
    rows, columns = np.mgrid[:375, :1242].astype(np.float32)
    image = np.stack([rows % 256, columns % 256, rows * 0], axis=-1).astype(np.uint8)
    cut = kb_crop({"image": image, "disparity": rows, "valid": columns > 600, "key": "k"})
    assert cut["image"].shape == (352, 1216, 3) and cut["disparity"].shape == (352, 1216)
    assert cut["disparity"][0, 0] == 23 and cut["disparity"][-1, -1] == 374
    assert cut["image"][0, 0, 1] == 13 and cut["valid"].sum() == 352 * (1216 - (601 - 13))


def test_kb_crop__a_smaller_image_is_a_bad_sample():
    small = {"image": np.zeros((300, 1242, 3), np.uint8), "disparity": np.zeros((300, 1242)), "key": "k"}
    with pytest.raises(BadSample, match="1242 x 300"):
        kb_crop(small)
