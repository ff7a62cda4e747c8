import json
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import scene

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.pointcloud import flying_pixels, from_prediction
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.runtime import UserError


def wall(height=4, width=6, depth_m=2.0):
    return np.zeros((height, width, 3), np.uint8), Prediction(np.full((height, width), depth_m, np.float32), "metric")


def test_from_prediction__points_project_back_onto_their_pixels():
    image, disparity = scene(1)
    fx, fy, cx, cy = 70.0, 60.0, 20.5, 17.0
    cloud = from_prediction(image, Prediction(1 / disparity, "metric"), intrinsics=(fx, fy, cx, cy))
    x, y, z = cloud.points.T
    assert cloud.points.dtype == np.float32
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    assert fx * x / z + cx == pytest.approx(columns.ravel(), abs=1e-3)
    assert fy * y / z + cy == pytest.approx(rows.ravel(), abs=1e-3)
    assert z == pytest.approx(1 / disparity.ravel(), rel=1e-5)
    assert (cloud.colors == image.reshape(-1, 3)).all()


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_from_prediction__field_of_view_spans_the_longer_side(shape):
    cloud = from_prediction(*wall(*shape, depth_m=1.0), fov_deg=90)
    # Centres of the outermost pixels are half a pixel inside of what is 2 m wide at 1 m.
    assert np.ptp(cloud.points, axis=0).max() == pytest.approx(2 * 59 / 60)
    assert np.abs(cloud.points[:, :2].mean(axis=0)).max() < 1e-6


def test_from_prediction__of_a_relative_model_is_the_inverse_with_the_near_at_1():
    disparity = np.repeat(np.array([[8.0, 4.0, 2.0, 1.0]], np.float32), 4, axis=0)
    cloud = from_prediction(np.zeros((4, 4, 3), np.uint8), Prediction(disparity))
    assert np.unique(cloud.points[:, 2]).tolist() == [1, 2, 4, 8]


def test_from_prediction__sky_is_dropped_and_not_put_far_away():
    disparity = np.full((4, 4), 1.0, np.float32)
    disparity[0] = (0.0, -1.0, 0.019, 0.021)
    cloud = from_prediction(np.zeros((4, 4, 3), np.uint8), Prediction(disparity))
    assert len(cloud.points) == 13
    assert cloud.points[:, 2].max() < 50


def test_from_prediction__metres_that_are_none_are_dropped():
    image, prediction = wall()
    prediction.values[0, :3] = (0.0, np.inf, np.nan)
    cloud = from_prediction(image, prediction)
    assert len(cloud.points) == 21 and np.isfinite(cloud.points).all()
    centred = np.ones((3, 3), np.float32)
    centred[1, 1] = np.inf  # on the optical axis, where it would be multiplied by 0
    assert len(from_prediction(image[:3, :3], Prediction(centred, "metric")).points) == 8


def test_from_prediction__takes_no_more_points_than_asked_for_but_the_whole_view():
    image, prediction = wall(300, 400)
    cloud = from_prediction(image, prediction, max_points=1000)
    assert 500 < len(cloud.points) <= 1000
    whole = from_prediction(image, prediction, max_points=None)
    assert len(whole.points) == 120_000
    assert np.ptp(cloud.points, axis=0) == pytest.approx(np.ptp(whole.points, axis=0), rel=0.05)


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_flying_pixels__a_plane_loses_nothing_however_steep(across, down):
    """Disparity of a plane is linear in the pixels; 0.9 and 0.9 is nearly edge-on to the camera at the far corner."""
    rows, columns = np.mgrid[-1:1:60j, -1:1:80j]
    scale = 0.99 / max(abs(across) + abs(down), 0.99)
    disparity = (1 + scale * (across * columns + down * rows)).astype(np.float32)
    assert not flying_pixels(disparity).any()


@pytest.mark.parametrize("turned", [False, True])
def test_flying_pixels__of_a_blurred_edge_the_ramp_goes_and_both_surfaces_stay(turned):
    disparity = np.full((400, 500), 0.25, np.float32)
    disparity[:, 200:] = 0.5
    assert not flying_pixels(disparity).any(), "a sharp step has no point between the surfaces"
    disparity[:, 198:202] = (0.3, 0.35, 0.4, 0.45)
    flying = flying_pixels(disparity.T if turned else disparity)
    flying = flying.T if turned else flying
    assert flying[:, 198:202].all() and not np.delete(flying, np.s_[198:202], axis=1).any()


def test_flying_pixels__a_thin_pole_stays():
    disparity = np.full((400, 500), 0.25, np.float32)
    disparity[:, 200:203] = 0.5
    assert not flying_pixels(disparity).any()


def test_from_prediction__leaves_flying_pixels_out_unless_told():
    image, prediction = wall(300, 400)
    prediction.values[:, 200:] = 4.0
    prediction.values[:, 199] = 3.0
    assert len(from_prediction(image, prediction).points) == 300 * 399
    assert len(from_prediction(image, prediction, drop_flying=False).points) == 300 * 400


def test_from_prediction__a_focal_length_counts_where_nothing_else_is_given():
    image, prediction = wall()
    points = {
        key: from_prediction(image, prediction, **given).points
        for key, given in {
            "focal": dict(focal_px=3.0),
            "fov": dict(fov_deg=90.0),  # 6 pixels across: 3 pixels focal length
            "both": dict(fov_deg=90.0, focal_px=99.0),
            "intrinsics": dict(intrinsics=(3.0, 3.0, 2.5, 1.5), focal_px=99.0),
        }.items()
    }
    for other in points.values():
        assert other == pytest.approx(points["focal"], rel=1e-6)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_encode__without_points_is_a_bad_sample(level):
    cloud = from_prediction(np.zeros((2, 2, 3), np.uint8), Prediction(np.full((2, 2), level, np.float32)))
    with pytest.raises(BadSample) as caught:
        cloud.encode("ply")
    assert caught.value.reason == "no_points"


def test_encode__ply_holds_points_and_colours_as_they_are():
    image, prediction = wall()
    image[:] = (10, 20, 30)
    cloud = from_prediction(image, prediction)
    header, _, body = cloud.encode("ply").partition(b"end_header\n")
    assert b"binary_little_endian" in header and b"element vertex 24" in header
    vertex = np.dtype([("point", "<f4", 3), ("color", "u1", 4)])
    vertices = np.frombuffer(body, vertex)
    assert (vertices["point"] == cloud.points).all()
    assert (vertices["color"] == (10, 20, 30, 255)).all()


def read_glb(data, attribute):
    """Bytes of one attribute of the first mesh."""
    assert data[:4] == b"glTF"
    length = struct.unpack("<I", data[12:16])[0]
    tree = json.loads(data[20 : 20 + length])
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][attribute]]
    view = tree["bufferViews"][accessor["bufferView"]]
    start = 20 + length + 8 + view.get("byteOffset", 0)
    return data[start : start + view["byteLength"]]


def test_encode__glb_has_y_up_and_looks_along_minus_z():
    cloud = from_prediction(*wall())
    points = np.frombuffer(read_glb(cloud.encode("glb"), "POSITION"), "<f4").reshape(-1, 3)
    assert points == pytest.approx(cloud.points * (1, -1, -1))


def test_encode__glb_has_linear_colours():
    image, prediction = wall()
    image[:] = (0, 188, 255)
    colors = np.frombuffer(read_glb(from_prediction(image, prediction).encode("glb"), "COLOR_0"), np.uint8)
    assert colors.reshape(-1, 4).tolist() == [[0, 128, 255, 255]] * 24  # 188 is half as bright as 255


def test_encode__refuses_other_formats():
    with pytest.raises(UserError, match="ply or glb"):
        from_prediction(*wall()).encode("obj")


def test_encode__without_trimesh_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r"depth-anything-train\[points\]"):
        from_prediction(*wall()).encode("ply")
