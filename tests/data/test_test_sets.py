import pytest

from depth_anything_train.data.test_sets import EvenlySpread


@pytest.mark.parametrize(("limit", "expected"), [(3, [0, 2, 4]), (7, [0, 1, 2, 3, 4, 5, 6]), (None, [*range(7)])])
def test_evenly_spread__has_no_image_twice(limit, expected):
    assert [*EvenlySpread([*range(7)], limit)] == expected
