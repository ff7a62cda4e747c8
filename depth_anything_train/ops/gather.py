"""Small facts of all processes of a training, wherever there is one or several of them."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")


def gather_objects(mine: T) -> list[T]:
    """What every process gives, by rank; of a single process its own. Every process must call it."""
    if not distributed.is_initialized():
        return [mine]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return parts
