import numpy as np
import pytest

from data_engine.labelling.filters import Filters, flip_disagreement, saturated_share, spread


def ramp(low=0.1, high=1.0, shape=(40, 60)):
    return np.broadcast_to(np.linspace(low, high, shape[1], dtype=np.float32), shape)


def test_spread__is_that_of_the_middle_of_the_values():
    assert spread(ramp(0, 1, (40, 400))[None]) == pytest.approx(0.95, abs=0.01)
    assert spread(ramp(9, 10, (40, 400))[None]) == pytest.approx(0.09, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_spread__of_a_constant_is_zero(value):
    assert spread(np.full((1, 40, 60), value, np.float32)) == 0


def test_spread__does_not_depend_on_the_scale():
    assert spread(ramp()[None]) == pytest.approx(spread(1000 * ramp()[None]))


def test_spread__a_few_odd_pixels_do_not_make_a_flat_map_deep():
    flat = np.full((40, 60), 1.0, np.float32)
    flat[:4, :4] = 9
    assert spread(flat[None]) == 0


def test_flip_disagreement__is_a_share_of_the_spread():
    plain = ramp(0, 1)
    assert flip_disagreement(np.stack([plain, plain])) == 0
    shifted = flip_disagreement(np.stack([plain, plain + np.float32(0.09)]))
    assert shifted == pytest.approx(0.1, abs=0.01)
    assert flip_disagreement(1000 * np.stack([plain, plain + np.float32(0.09)])) == pytest.approx(shifted)


def test_saturated_share__counts_black_and_white_and_nothing_between():
    image = np.full((40, 40, 3), 128, np.uint8)
    image[:, :10] = 0
    image[:, 10:20] = 255
    image[:, 20:30] = (255, 0, 0)  # a colour, however strong
    assert saturated_share(image) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("views", "reasons"),
    [
        (ramp()[None], []),
        (np.stack([ramp(), ramp()[:, ::-1]]), ["flat", "flip"]),  # their mean is flat
        (np.stack([ramp(), ramp() + np.float32(0.2)]), ["flip"]),
        (np.full((1, 40, 60), 0.5, np.float32), ["flat"]),
        (np.full((1, 40, 60), np.nan, np.float32), ["not_finite"]),
    ],
)
def test_label_flags__name_what_is_suspicious(views, reasons):
    assert list(Filters().label_flags(views)) == reasons


def test_image_flags__a_limit_is_not_beyond_itself():
    assert list(Filters(tiny=40).image_flags(np.full((40, 90, 3), 99, np.uint8))) == []
    assert list(Filters(tiny=41).image_flags(np.full((40, 90, 3), 99, np.uint8))) == ["tiny"]


def test_filters__can_be_switched_off():
    off = Filters(tiny=None, saturated=None, flat=None, flip=None)
    assert list(off.image_flags(np.zeros((1, 1, 3), np.uint8))) == []
    assert list(off.label_flags(np.stack([ramp(), ramp()[:, ::-1]]))) == []
