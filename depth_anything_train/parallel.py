"""Work in threads beside the caller's, with the results in the order of the items."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 16
"""How many items are waited for at the same time, small files as a rule."""

QUICK_S = 2e-4
"""An item that takes less comes as soon as it is asked for: threads would only be in each other's way."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], *, perhaps_quick: bool = False
) -> Iterator[Result]:
    """Call a function that waits for a store or a disk, in several threads; results come in the order of the items.

    Args:
        function: called with one item.
        items: the items.
        perhaps_quick: begin without threads, and go on so while an item takes less than `QUICK_S` in the mean.
    """
    waiting = iter(items)
    if perhaps_quick:
        spent = 0.0
        for done, item in enumerate(waiting):
            start = time.perf_counter()
            result = function(item)
            spent += time.perf_counter() - start
            yield result
            if spent > QUICK_S * (done + 50):  # a single late one says little
                break
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, waiting)


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """`function` of every item, in order, computed in the pool at most `count` items ahead of the one asked for."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > count:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def in_order(numbered: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """Items numbered from 0 that come in any order, each as soon as all before it are there."""
    waiting: dict[int, Item] = {}
    number = 0
    for key, item in numbered:
        waiting[key] = item
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; the next one is made in a thread while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
