"""Fetch remote shards into the cache before they are needed: the next group, while training is at the current one."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from depth_anything_train.data.order import BlockShuffle, Mixture, StepBatches
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import Source

FETCHERS = 4
"""Shards that are fetched at the same time."""


class ShardPrefetcher:
    """Fetches the shards of the group that training is at, and of the next one.

    Nothing depends on it: a shard that does not come is asked for again by whoever reads it, and its error told there.
    To be entered after workers were forked, which must not inherit the threads.

    Args:
        batches: what the training is given, in an order by groups of shards (`data.shuffle_shards`).
        sources: stream -> its samples.
    """

    def __init__(self, batches: StepBatches, sources: Mapping[str, Source]) -> None:
        self.batches, self.sources = batches, sources
        self._asked: dict[str, list[int]] = {name: [] for name in sources}
        self._wanted: SimpleQueue[tuple[ShardFolder, int] | None] = SimpleQueue()
        self._closed = False

    def __enter__(self) -> ShardPrefetcher:
        for _ in range(FETCHERS):
            Thread(target=self._fetch, daemon=True).start()  # who is asked to leave does not wait for it
        self.reach(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        for _ in range(FETCHERS):
            self._wanted.put(None)

    def reach(self, batch: int) -> None:
        """Say which batch the training asks for, counted from the first one."""
        step = self.batches.start_step + batch // self.batches.parts
        for name, stream in self.batches.streams.items():
            assert isinstance(stream.order, BlockShuffle | Mixture)
            groups = stream.order.groups_at(step * stream.slots, self.batches.seed, name)
            shards = [shard for group in groups for shard in group]
            for shard in shards:
                if shard not in self._asked[name]:
                    for folder_and_number in self.sources[name].shards_of(shard):
                        self._wanted.put(folder_and_number)
            self._asked[name] = shards

    def _fetch(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._closed:
            folder, number = wanted
            folder.fetch(number)
