import cv2
import numpy as np
import pytest
from scenes import scene

from depth_anything_train.inference.outputs import Outputs, color_picture, control_map, side_by_side
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.inference.sources import SUFFIXES
from depth_anything_train.runtime import UserError


@pytest.fixture
def photo():
    image, disparity = scene(0)
    return image, Prediction(disparity)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_outputs__all_of_them_have_the_size_of_the_photograph(photo, tmp_path):
    image, prediction = photo
    height, width = image.shape[:2]
    paths = Outputs(tuple(SUFFIXES), pointcloud="ply").write(tmp_path / "new" / "a.b", image, prediction)
    assert sorted(path.name for path in paths) == sorted(
        ["a.b_color.png", "a.b_16bit.png", "a.b.npy", "a.b_control.png", "a.b_side_by_side.png", "a.b.ply"]
    )
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    assert read(tmp_path / "new" / "a.b_color.png").shape == (height, width, 3)
    assert read(tmp_path / "new" / "a.b_16bit.png").shape == (height, width)
    assert read(tmp_path / "new" / "a.b_control.png").shape == (height, width, 3)
    assert read(tmp_path / "new" / "a.b_side_by_side.png").shape == (height, 2 * width, 3)
    assert (np.load(tmp_path / "new" / "a.b.npy") == prediction.values).all()


def test_outputs__where_one_cannot_be_made_none_is_written(photo, tmp_path):
    nothing = Prediction(np.zeros_like(photo[1].values))
    with pytest.raises(UserError, match="infinitely far"):
        Outputs(("control",), pointcloud="ply").write(tmp_path / "a", photo[0], nothing)
    assert not list(tmp_path.iterdir())


def test_outputs__a_name_that_leaves_no_room_for_one_of_them_and_another_size_write_nothing(photo, tmp_path):
    image, prediction = photo
    with pytest.raises(UserError, match="Expected names of at most 255 bytes, but xxx"):
        Outputs(("npy", "side_by_side")).write(tmp_path / ("x" * 245), image, prediction)
    with pytest.raises(UserError, match=r"they are \(21, 28\) and \(42, 56\)"):
        Outputs(("npy",)).write(tmp_path / "a", image, prediction.resized(21, 28))
    assert not list(tmp_path.iterdir())


def test_outputs__only_what_was_chosen_is_written(photo, tmp_path):
    (path,) = Outputs(("control",)).write(tmp_path / "a", *photo)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(names=("colour",)), "out of color"),
        (dict(names=("color", "color")), "once"),
        (dict(names=()), "something to write"),
        (dict(colormap="none"), "no colormap"),
        (dict(percentile=50), "below 50"),
        (dict(pointcloud="obj"), "ply or glb"),
        (dict(fov_deg=180), "180 degrees"),
        (dict(intrinsics=(1.0, 2.0)), "fx, fy, cx, cy"),
        (dict(intrinsics=(1.0, 0.0, 3.0, 4.0)), "above 0"),
        (dict(intrinsics=("a", "b", "c", "d")), "fx, fy, cx, cy"),
        (dict(intrinsics=(1.0, 1.0, 0.0, 0.0), fov_deg=60), "leave one out"),
    ],
)
def test_outputs__refuses_what_cannot_be_before_anything_is_predicted(wrong, message):
    with pytest.raises(UserError, match=message):
        Outputs(**wrong)


def test_control_map__near_is_white_and_far_is_black():
    control = control_map(Prediction(np.array([[1.0, 2.0, 3.0]], np.float32)))
    assert control.dtype == np.uint8
    assert control.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_control_map__of_metres_is_white_where_they_are_few():
    control = control_map(Prediction(np.array([[1.0, 2.0, 4.0]], np.float32), "metric"))
    assert control[0, :, 0].tolist() == [255, 85, 0]  # 1, 1/2 and 1/4 between 1/4 and 1


def test_control_map__percentiles_keep_one_wild_pixel_from_taking_the_contrast():
    disparity = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    disparity[0, 0] = 1000
    assert np.ptp(control_map(Prediction(disparity))[1:]) <= 1
    clipped = control_map(Prediction(disparity), percentile=1)
    assert clipped[0, 0, 0] == 255 and np.ptp(clipped[1:]) == 255
    assert 0.018 < np.isin(clipped[..., 0], (0, 255)).mean() < 0.03


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_constant_disparity__is_no_division_by_zero(level):
    constant = Prediction(np.full((2, 2), level, np.float32))
    assert control_map(constant).max() == 0
    assert color_picture(constant).shape == (2, 2, 3)


def test_color_picture__near_is_red_and_far_is_blue_in_spectral():
    far, near = color_picture(Prediction(np.array([[0.0, 1.0]], np.float32)))[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]


def test_color_picture__same_limits_same_colours():
    whole = Prediction(np.array([[0.0, 0.5, 1.0]], np.float32))
    part = Prediction(np.array([[0.5, 0.5, 0.5]], np.float32))
    assert (color_picture(part, limits=(0, 1))[0, 0] == color_picture(whole, limits=(0, 1))[0, 1]).all()


def test_side_by_side__has_the_photograph_on_the_left(photo):
    picture = color_picture(photo[1])
    both = side_by_side(photo[0], picture)
    width = picture.shape[1]
    assert (both[:, :width] == photo[0]).all() and (both[:, width:] == picture).all()
