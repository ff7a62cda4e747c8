"""Labelling in this process, one shard after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_engine.labeller import ShardLabeller
from depth_anything_train.data.shards import Shard
from depth_anything_train.runtime import ProgressBar


class LocalEngine:
    """Labels with the device of this process; decoding and encoding run in threads beside it."""

    def run(self, labeller: ShardLabeller, shards: Sequence[Shard], out: Path) -> None:
        """Label the given shards.

        Args:
            labeller: teacher and settings.
            shards: image shards that are not labelled yet.
            out: folder of the label shards.

        Raises:
            UserError: a shard holds too many bad images.
        """
        with ProgressBar("label", sum(shard.count for shard in shards)) as bar:
            for shard in shards:
                labeller.label(shard, out, bar.advance)
