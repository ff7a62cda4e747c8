import pytest

from depth_anything_train.data.camera import read_focal, resized_focal


def test_read_focal__is_the_geometric_mean_of_both_sides():
    assert read_focal({"camera": {"fx": 400, "fy": 900.0, "cx": 0, "cy": 0}}) == pytest.approx(600)


@pytest.mark.parametrize(
    "camera", [None, {}, "pinhole", [500, 500], {"fx": 500}, {"fx": 500, "fy": 0}, {"fx": "500", "fy": 500}]
)
def test_read_focal__what_is_no_camera_has_none(camera):
    assert read_focal({"camera": camera}) is None
    assert read_focal({}) is None


def test_resized_focal__grows_with_the_image_and_takes_the_mean_of_a_stretch():
    assert resized_focal(500, (480, 640), (240, 320)) == pytest.approx(250)
    assert resized_focal(500, (100, 100, 3), (400, 100)) == pytest.approx(1000)
