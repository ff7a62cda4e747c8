import cv2
import numpy as np
import pytest
from scipy import stats

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.transforms import MAX_ASPECT, Geometry
from depth_anything_train.runtime import UserError


def sample(height, width, label_scale=1):
    """Red and disparity are both the column, green and `classes` both the row: they must stay together."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([250 * columns / width, 250 * rows / height, 0 * rows], axis=-1).astype(np.uint8)
    rows, columns = np.mgrid[: height * label_scale, : width * label_scale]
    disparity = (250 * columns / (width * label_scale)).astype(np.float32)
    valid = rows % 2 == 0
    classes = (250 * rows / (height * label_scale)).astype(np.uint8)
    return {"image": image, "disparity": disparity, "valid": valid, "classes": classes, "key": "a"}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(28, 28), (56, 42), (30, 97), (200, 150), (15, 20)])
@pytest.mark.parametrize("label_scale", [1, 2])
def test_geometry__crops_everything_to_the_same_square(shape, label_scale):
    before = sample(*shape, label_scale)
    view = Geometry(28)(before, rng())
    for name, channels in {"image": (3,), "disparity": (), "valid": (), "classes": ()}.items():
        assert view[name].shape == (28, 28, *channels)
        assert view[name].dtype == before[name].dtype
        assert view[name].flags["C_CONTIGUOUS"]
    assert view["key"] == "a"


@pytest.mark.parametrize("shape", [(112, 168), (168, 112)])
@pytest.mark.parametrize("label_scale", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_geometry__label_follows_the_image(shape, label_scale, seed):
    view = Geometry(84)(sample(*shape, label_scale), rng(seed))
    inside = np.s_[2:-2, 2:-2]  # bicubic overshoots at the border
    assert np.abs(view["image"][..., 0].astype(float) - view["disparity"])[inside].max() < 5
    assert np.abs(view["image"][..., 1].astype(float) - view["classes"])[inside].max() < 5


def test_geometry__label_is_not_shifted_against_the_image():
    """The mean difference shows a shift of a fraction of a pixel: one label pixel is 250 / 504 here."""
    before = sample(168, 168, 3)
    before["valid"][:] = True
    view = Geometry(56, flip=0.0)(before, rng())
    difference = view["image"][2:-2, 2:-2, 0].astype(float) + 0.5 - view["disparity"][2:-2, 2:-2]
    assert abs(difference.mean()) < 1.0


def test_geometry__labels_are_never_blended():
    before = sample(90, 61)
    before["classes"] = rng().choice(np.array([3, 200, 255], np.uint8), (90, 61))
    before["disparity"], before["valid"][:] = before["classes"].astype(np.float32), True
    view = Geometry(28)(before, rng())
    assert set(np.unique(view["classes"])) <= {3, 200, 255}
    assert (view["classes"] == view["disparity"]).all()


def test_geometry__keeps_sparse_measurements_when_it_shrinks():
    before = sample(280, 280)
    before["valid"][:] = False
    before["valid"][3, 8] = before["valid"][3, 5] = before["valid"][124, 275] = True
    before["disparity"][3, 8], before["disparity"][3, 5], before["disparity"][124, 275] = 0.25, 0.5, 0.0
    fitted = Geometry(28).fit(before)
    assert np.argwhere(fitted["valid"]).tolist() == [[0, 0], [12, 27]]
    assert fitted["disparity"][0, 0] == 0.5 and fitted["disparity"][12, 27] == 0


def test_geometry__measured_pixels_keep_their_own_value():
    before = sample(112, 112)
    before["valid"] = rng().random((112, 112)) < 0.5
    nearest = cv2.resize(before["valid"].view(np.uint8), (28, 28), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)
    values = cv2.resize(before["disparity"], (28, 28), interpolation=cv2.INTER_NEAREST_EXACT)
    fitted = Geometry(28).fit(before)
    assert (fitted["disparity"][nearest] == values[nearest]).all() and fitted["valid"][nearest].all()
    assert fitted["valid"].mean() > 0.99  # sixteen pixels in each, half of them measured


def test_geometry__keeps_pixels_when_no_resize_is_needed():
    before = sample(28, 40)
    view = Geometry(28, flip=0.0)(before, rng(3))
    left = rng(3)
    left.integers(1)
    column = int(left.integers(13))
    assert (view["image"] == before["image"][:, column : column + 28]).all()


def test_geometry__resizes_the_shorter_side_bicubically():
    before = sample(60, 60)
    view = Geometry(28, flip=0.0)(before, rng())
    assert (view["image"] == cv2.resize(before["image"], (28, 28), interpolation=cv2.INTER_CUBIC)).all()


def test_geometry__flips_half_of_the_views_and_crops_everywhere():
    views = [Geometry(28)(sample(28, 41), rng(seed)) for seed in range(400)]
    flipped = [view["disparity"][0, 0] > view["disparity"][0, -1] for view in views]
    assert stats.binomtest(sum(flipped), 400, 0.5).pvalue > 0.001
    lefts = [round(min(view["disparity"][0, 0], view["disparity"][0, -1]) * 41 / 250) for view in views]
    assert stats.chisquare(np.bincount(lefts, minlength=14)).pvalue > 0.001


def test_geometry__never_changes_its_input():
    before = sample(28, 28)
    copies = {name: np.copy(value) for name, value in before.items()}
    Geometry(28, flip=1.0)(before, rng())["image"][:] = 0
    assert all((before[name] == copies[name]).all() for name in copies if name != "key")


def test_geometry__refuses_a_strip():
    with pytest.raises(BadSample, match="strip") as error:
        Geometry(28)(sample(2, 2 * MAX_ASPECT + 1), rng())
    assert error.value.reason == "extreme_aspect"


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 28, "flip": 1.5}])
def test_geometry__refuses_impossible_values(options):
    with pytest.raises(UserError):
        Geometry(**options)


def test_geometry__a_pair_of_sides_stretches_and_cuts_nothing():
    before = sample(30, 90)
    view = Geometry([28, 56], flip=0.0)(before, rng())
    assert view["image"].shape == (28, 56, 3) and view["disparity"].shape == view["valid"].shape == (28, 56)
    expected = cv2.resize(before["image"], (56, 28), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(view["image"], expected)


def test_rotation__turns_image_and_label_together_and_leaves_no_label_in_the_corners():
    rows, columns = np.mgrid[:56, :56]
    board = ((rows // 8 + columns // 8) % 2).astype(np.float32)
    before = {"image": np.repeat((board * 255).astype(np.uint8)[..., None], 3, 2), "disparity": board + 1}
    before |= {"valid": np.ones(board.shape, bool), "key": "k"}
    view = Geometry(56, flip=0.0, rotate_deg=20.0)(before, np.random.default_rng(5))
    valid = view["valid"]
    assert 0.7 < valid.mean() < 1 and not valid[0, 0]
    clear = valid & ((view["image"][..., 0] < 20) | (view["image"][..., 0] > 235))
    difference = (view["disparity"][clear] - 1) * 255 - view["image"][..., 0][clear]
    assert np.abs(difference).max() < 25
    assert not np.array_equal(view["disparity"], before["disparity"])


def test_rotation__of_a_stretched_picture_is_one_of_the_picture_before():
    """Turned by hand first and stretched then, a smooth picture comes out the same."""
    rows, columns = np.mgrid[:60, :240]
    wave = 128 + 60 * np.sin(columns / 9) + 60 * np.cos(rows / 7)
    before = {"image": np.repeat(wave.astype(np.uint8)[..., None], 3, 2), "key": "k"}
    angle = rng(3).uniform(-8.0, 8.0)
    turn = cv2.getRotationMatrix2D((119.5, 29.5), angle, 1.0)
    expected = cv2.resize(cv2.warpAffine(before["image"], turn, (240, 60)), (84, 84), interpolation=cv2.INTER_CUBIC)
    view = Geometry([84, 84], flip=0.0, rotate_deg=8.0)(before, rng(3))
    assert set(view) == {"image", "key"}
    inside = np.s_[25:-25, 10:-10]
    difference = np.abs(view["image"][inside].astype(float) - expected[inside]).mean()
    assert abs(angle) > 5 and difference < 1  # 22 where the stretched picture itself is turned


def test_rotation__is_a_function_of_its_numbers_and_off_by_default():
    before = sample(40, 40)
    twice = [Geometry(28, rotate_deg=1.0)(before, rng(4)) for _ in range(2)]
    assert all(np.array_equal(twice[0][name], twice[1][name]) for name in ("image", "disparity", "valid"))
    plain = [Geometry(28, **options)(before, rng(4))["image"] for options in ({}, {"rotate_deg": 0.0})]
    assert np.array_equal(*plain)


@pytest.mark.parametrize("size", [[28], [28, 0], [28.0, 28]])
def test_geometry__sides_that_cannot_be_are_refused(size):
    with pytest.raises(UserError, match="height, width"):
        Geometry(size)


@pytest.mark.parametrize("size", [700_000, [14, 1_400_000]])
def test_geometry__views_that_no_memory_holds_are_refused(size):
    with pytest.raises(UserError, match="at most 16,777,216 pixels, but got data.size="):
        Geometry(size)
