import matplotlib
import numpy as np
import pytest

from depth_anything_train.ops.colormaps import INVALID_GREY, check_colormap, colorize
from depth_anything_train.runtime import UserError


@pytest.mark.parametrize("name", ["Spectral_r", "viridis", "tab10"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_colorize__gives_the_colours_of_matplotlib(name, kind):
    values = np.linspace(-1, 3, 300).reshape(20, 15).astype(kind)
    expected = matplotlib.colormaps[name](((values - 0) / 2).clip(0, 1), bytes=True)[..., :3]
    assert (colorize(values, colormap=name, limits=(0.0, 2.0)) == expected).all()


def test_colorize__one_wild_pixel_does_not_take_the_contrast():
    values = np.linspace(0, 1, 10_000).reshape(100, 100)
    wild = values.copy()
    wild[0, 0] = 1e6
    assert (colorize(wild)[50] == colorize(values)[50]).mean() > 0.9


def test_colorize__what_is_not_valid_or_not_finite_is_grey():
    values = np.array([[0.0, np.nan, np.inf, 1.0]])
    picture = colorize(values, np.array([[True, True, True, False]]))
    assert (picture[0, 1:] == INVALID_GREY).all() and (picture[0, 0] != INVALID_GREY).any()
    assert (colorize(np.full((2, 2), np.nan)) == INVALID_GREY).all()


def test_check_colormap__refuses_unknown_names():
    check_colormap("magma")
    with pytest.raises(UserError, match="knows no colormap"):
        check_colormap("spectral")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_colorize__limits_that_are_one_are_no_division_by_zero(kind):
    assert colorize(np.full((2, 2), 3, kind), limits=(3.0, 3.0)).shape == (2, 2, 3)
