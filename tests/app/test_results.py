from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from networks import build
from scenes import scene

from depth_anything_train.app.results import SHOWN_SIDE, VIEWED_MEDIANS, Result, predict
from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.exif import FOCAL_35MM, PHOTOGRAPH, stated_focal
from depth_anything_train.inference.outputs import color_picture
from depth_anything_train.inference.png16 import to_16bit
from depth_anything_train.inference.pointcloud import camera
from depth_anything_train.inference.prediction import Prediction


@pytest.fixture
def result(tmp_path):
    image, disparity = scene(0, 60, 80)
    return Result(tmp_path, "photo", image, Prediction(disparity), seconds=0.5)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


def test_shown__is_the_photograph_and_the_colours_of_predict(result):
    photo, disparity = result.shown("magma")
    assert (read(photo) == result.image).all()
    assert (read(disparity) == color_picture(result.prediction, "magma")).all()


def test_shown__fits_a_screen_and_the_files_have_all_pixels(tmp_path):
    image, disparity = scene(0, 1000, 2 * SHOWN_SIDE)
    result = Result(tmp_path, "photo", image, Prediction(disparity), seconds=0.5)
    assert [read(path).shape for path in result.shown("gray")] == [(500, SHOWN_SIDE, 3)] * 2
    assert read(result.files("color")[0]).shape == image.shape


def test_every_call__writes_to_new_addresses(result):
    """A browser shows again what it has seen under an address."""
    paths = [*result.shown("gray"), *result.shown("gray"), *result.points(60), *result.points(60)]
    assert len(set(paths)) == len(paths)


def test_files__are_called_after_the_photograph(result):
    names = [Path(path).name for path in result.files("control", "16bit", "npy")]
    assert names == ["photo_control.png", "photo_16bit.png", "photo.npy"]


def test_points__the_viewer_does_without_what_is_far_away(result):
    trimesh = pytest.importorskip("trimesh")
    disparity = np.full((60, 80), 1.0, np.float32)
    disparity[:10] = 1 / (2 * VIEWED_MEDIANS)
    viewed, download = Result(result.cache, "photo", result.image, Prediction(disparity), seconds=0.5).points(60)
    assert trimesh.load(download).vertices.shape == (60 * 80, 3)
    (cloud,) = trimesh.load(viewed).geometry.values()
    assert cloud.vertices.shape == (50 * 80, 3) and cloud.vertices[:, 2] == pytest.approx(-1)


def test_points__of_nothing_but_sky_are_refused(result):
    pytest.importorskip("trimesh")
    with pytest.raises(BadSample, match="infinitely far"):
        Result(result.cache, "photo", result.image, Prediction(np.zeros((60, 80), np.float32)), seconds=0.5).points(60)


def test_caption__names_metres_of_a_metric_model_alone(result):
    assert "no metres" in result.caption("gray") and "rgb(0 0 0), " in result.caption("gray")
    depth_m = np.linspace(2, 8, 4800, dtype=np.float32).reshape(60, 80)
    caption = Result(result.cache, "photo", result.image, Prediction(depth_m, "metric"), seconds=0.5).caption("gray")
    assert "7.94 m" in caption and "2.06 m" in caption and "no metres" not in caption


def with_focal(path, image, focal_mm):
    """The photograph as a camera would write it, with EXIF's FocalLengthIn35mmFilm."""
    exif = PIL.Image.Exif()
    if focal_mm is not None:
        exif.get_ifd(PHOTOGRAPH)[FOCAL_35MM] = focal_mm
    PIL.Image.fromarray(image).save(path, exif=exif)
    return path


def test_predict__a_photograph_is_seen_through_the_lens_that_its_exif_states(result, tmp_path):
    model = DepthAnything(build(kind="metric", max_depth_m=80.0, canonical_focal_px=50.0), size=28, device="cpu")
    photo = with_focal(tmp_path / "photo.jpg", result.image, 26)
    found = predict(photo, model, size=None, cache=tmp_path)
    expected = model.predict(photo)
    assert (found.prediction.depth_m == expected.depth_m).all()
    assert (cv2.imread(found.files("16bit")[0], -1) == to_16bit(expected)).all()
    assert camera(60, 80, found.fov_deg, None)[0] == pytest.approx(stated_focal(photo))
    unknown = with_focal(tmp_path / "unknown.jpg", result.image, None)
    with pytest.raises(BadSample, match="Expected a focal length"):
        predict(unknown, model, size=None, cache=tmp_path)
    assert result.fov_deg is None
