from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from depth_anything_train.ops.sampling import evenly


@given(st.integers(0, 200), st.integers(0, 200))
def test_evenly__each_once_at_distances_that_differ_by_one_at_most(total, count):
    places = evenly(total, count)
    steps = {after - before for before, after in pairwise([*places, total])}
    assert len(places) == min(total, count) and places[:1] == [0][: len(places)]
    assert not places or (min(steps) > 0 and max(steps) - min(steps) <= 1)
