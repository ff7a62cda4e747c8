import numpy as np
import pytest

from depth_anything_train.metrics.units import median_ratio, unit_warning


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (1000.0, "predictions are 1000 times too large, near 1000 (millimetres"),
        (1 / 1000, "labels are 1000 times too large, near 1000 (millimetres"),
        (1 / 110, "near 100 (centimetres"),
        (1 / 256, "near 256 (a PNG of KITTI"),
        (1 / 4900, "near 5000 (a PNG of TUM"),
        (9.5, "near 10 (a PNG divided by 1,000"),
        (3.0, "near no usual factor"),
    ],
)
def test_unit_warning__names_the_factor(ratio, said):
    assert said in unit_warning([ratio * 0.9, ratio, ratio * 5])


def test_unit_warning__names_both_causes_and_the_likelier_first():
    """One usual factor for all images is a unit; any other, or another for every image, is what a model does."""
    for ratios, likely in (
        ([9e-4, 1e-3, 1.1e-3], "unit"),
        ([1e-3 / 3, 1e-3, 3e-3], "model"),
        ([2.9, 3.0, 3.1], "model"),
    ):
        warning = unit_warning(ratios)
        causes = {"unit": warning.index("a wrong unit"), "model": warning.index("a model that is hardly trained")}
        assert min(causes, key=causes.get) == likely


def test_unit_warning__is_silent_about_ordinary_errors():
    assert unit_warning([0.6, 0.9, 1.8]) is None
    assert unit_warning([]) is None


def test_median_ratio__ignores_sky_holes_and_pixels_without_a_prediction():
    label = np.array([[0.5, 0.5, 0.5, 0.0, np.nan, 0.5]])
    valid = np.array([[True, True, True, True, True, False]])
    assert median_ratio(np.array([[0.25, 0.25, 0.0, 9, 9, 9]]), label, valid) == 2
    assert median_ratio(np.ones((1, 6)), label, np.zeros((1, 6), bool)) is None
