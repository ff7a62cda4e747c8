from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from depth_anything_train.parallel import in_order, in_parallel, map_ahead, prefetched


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_in_parallel__gives_all_in_order_and_waits_for_slow_ones_in_threads(seconds: float) -> None:
    def come(number: int) -> tuple[int, int]:
        time.sleep(seconds)
        return number, threading.get_ident()

    came = [*in_parallel(come, range(40), perhaps_quick=True)]
    assert [number for number, _ in came] == [*range(40)] and came[0][1] == threading.get_ident()
    assert not seconds or threading.get_ident() not in {thread for _, thread in came[1:]}


def test_map_ahead__never_runs_further_than_asked() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def note(item: int) -> int:
        with lock:
            started.append(item)
        return item

    with ThreadPoolExecutor(4) as pool:
        results = map_ahead(pool, note, iter(range(1000)), 5)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert max(started) <= 2 + 5
        assert list(results) == list(range(3, 1000))


def test_in_order__items_come_by_number():
    assert list(in_order([(2, "c"), (0, "a"), (1, "b"), (3, "d")])) == ["a", "b", "c", "d"]


def test_prefetched__makes_the_next_item_while_one_is_used():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    for number in prefetched(items()):
        deadline = time.monotonic() + 10
        while len(made) < min(number + 2, 4):
            assert time.monotonic() < deadline
    assert made == [0, 1, 2, 3]


def test_prefetched__passes_errors_on():
    def items():
        yield 1
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(prefetched(items()))
