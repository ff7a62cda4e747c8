import numpy as np
import pytest

from depth_anything_train.data.cache import SampleCache
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def megabyte(key):
    """A sample whose arrays have 2^20 bytes together."""
    half = np.zeros(2**19, np.uint8)
    return {"image": half, "valid": half.astype(bool), "key": key}


def test_sample_cache__makes_a_sample_once():
    cache = SampleCache(1)
    first = cache.get(0, lambda: megabyte("a"))
    assert cache.get(0, lambda: pytest.fail("made again")) is first


def test_sample_cache__keeps_the_first_that_fit_its_budget():
    cache = SampleCache(2.5)
    made = []
    for key in 2 * [*range(5)]:
        cache.get(key, lambda key=key: made.append(key) or megabyte(str(key)))
    assert made == [0, 1, 2, 3, 4, 2, 3, 4]
    assert cache.free_bytes == 2**19


def test_sample_cache__without_a_budget_keeps_nothing():
    cache = SampleCache(0)
    assert cache.get(0, lambda: megabyte("a")) is not cache.get(0, lambda: megabyte("a"))


def test_sample_cache__asks_for_a_bad_sample_again():
    cache = SampleCache(1)

    def bad():
        raise BadSample("truncated_image", "cut off")

    for _ in range(2):
        with pytest.raises(BadSample):
            cache.get(0, bad)
    assert cache.get(0, lambda: megabyte("a"))["key"] == "a"


@pytest.mark.parametrize("megabytes", [-1, float("nan")])
def test_sample_cache__needs_a_budget(megabytes):
    with pytest.raises(UserError, match="cache_mb"):
        SampleCache(megabytes)
