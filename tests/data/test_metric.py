"""Labels in metres from shards, and KITTI's window."""

import json

import numpy as np
import pytest
from networks import build
from pictures import picture, png, write_folder

from depth_anything_train.data.camera import read_focal
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.metric import MetricSource, kb_crop
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.transforms import Geometry
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.runtime import UserError


def folder(path, depth_m, *, unit="m", camera=None):
    """One sample whose label holds the given metres, 0 unknown."""
    depth_m = np.asarray(depth_m, np.float32)
    disparity = np.divide(1, depth_m, out=np.zeros_like(depth_m), where=depth_m > 0)
    members = {
        "png": png(picture(0)),
        "disparity.dz16": encode_dz16(disparity, depth_m > 0),
        "json": json.dumps({"unit": unit, "scale": 1.0, "camera": camera}).encode(),
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


@pytest.mark.parametrize("size", [[56, 44], 14])
def test_canonical_focal__what_is_learnt_is_what_a_prediction_turns_into_metres(tmp_path, size):
    shape, camera = picture(0).shape[:2], {"fx": 30.0, "fy": 40.0}
    shards = folder(tmp_path / "s", depth_m := ramp(1, 30), camera=camera)
    canonical = source(shards, canonical_focal_px=20.0, size=size).load(0)
    view = Geometry(size).fit(canonical)
    network = build(kind="metric", max_depth_m=40.0, canonical_focal_px=20.0)
    stated = np.divide(1, view["disparity"], out=np.ones_like(view["disparity"]), where=view["valid"])
    metres = DepthAnything(network, device="cpu").to_camera(stated, read_focal({"camera": camera}), shape)
    expected = Geometry(size).fit(source(shards).load(0))["disparity"]
    np.testing.assert_allclose(metres[view["valid"]], 1 / expected[view["valid"]], rtol=1e-5)
    assert not np.allclose(canonical["disparity"][5], 1 / depth_m[5], rtol=0.05)


def test_canonical_focal__twice_the_focal_length_is_half_the_metres_of_the_same_picture(tmp_path):
    wide, tele = (
        source(folder(tmp_path / name, ramp(1, 9), camera={"fx": f, "fy": f}), canonical_focal_px=50.0, size=28)
        for name, f in (("wide", 50.0), ("tele", 100.0))
    )
    np.testing.assert_allclose(tele.load(0)["disparity"], 2 * wide.load(0)["disparity"], rtol=1e-6)


def test_canonical_focal__what_is_too_far_for_the_canonical_camera_is_not_trained_on(tmp_path):
    shards = folder(tmp_path / "s", depth_m := ramp(1, 60), camera={"fx": 14.0, "fy": 14.0})
    valid = source(shards, canonical_focal_px=28.0, size=28).load(0)["valid"]  # twice as far in its metres
    assert np.array_equal(valid, depth_m < 20)


def test_canonical_focal__needs_a_camera_and_a_size(tmp_path):
    shards = folder(tmp_path / "s", ramp())
    with pytest.raises(BadSample, match="states no focal length") as error:
        source(shards, canonical_focal_px=500.0, size=28).load(0)
    assert error.value.reason == "no_camera"
    with pytest.raises(UserError, match="size of the views"):
        source(shards, canonical_focal_px=500.0)


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
