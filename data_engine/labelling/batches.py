"""Which images go through the teacher together: a pure function of their sizes and their order in the shard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

MAX_ASPECTS = 8  # a compiled network is compiled once for each


class Sized(Protocol):
    """An image with its place in the shard and the size at which the teacher sees it, None if it cannot be used."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int] | None: ...  # noqa: D102


Image = TypeVar("Image", bound=Sized)


def nearest_aspect(height: int, width: int, aspects: Sequence[float]) -> float:
    """The width / height out of `aspects` to which an image has to be stretched least."""
    return min(aspects, key=lambda aspect: abs(math.log(width / height / aspect)))


def batches(images: Iterable[Image], batch_size: int, patience: int) -> Iterator[list[Image]]:
    """Group images of one size into batches.

    Args:
        images: in the order of the shard.
        batch_size: images of a full batch.
        patience: a batch that is not full after this many further images goes out as it is. This bounds what has to
            be kept in memory until it can be written in order.
    """
    waiting: dict[tuple[int, int], list[Image]] = {}  # the one with the oldest image first
    for image in images:
        if image.shape is None:
            yield [image]
        else:
            group = waiting.setdefault(image.shape, [])
            group.append(image)
            if len(group) == batch_size:
                yield waiting.pop(image.shape)
        if waiting:
            shape, oldest = next(iter(waiting.items()))
            if image.number - oldest[0].number >= patience:
                yield waiting.pop(shape)
    yield from waiting.values()
