"""Which of many to take, where a few must stand for all."""

from __future__ import annotations


def evenly(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, at even distances."""
    count = min(count, total)
    return [total * k // count for k in range(count)]
