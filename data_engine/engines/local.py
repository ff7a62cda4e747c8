"""Labelling in this process, one shard after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_engine.labeller import ShardLabeller
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import ProgressBar


class LocalEngine:
    """Labels with the device of this process; decoding and encoding run in threads beside it."""

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> None:
        """Label some shards of a folder.

        Args:
            labeller: teacher and settings.
            images: the image shards.
            waiting: numbers of those that are not labelled yet.
            out: folder of the label shards.

        Raises:
            UserError: a shard holds too many bad images.
        """
        total = sum(images.starts[number + 1] - images.starts[number] for number in waiting)
        with ProgressBar("label", total) as bar:
            for number in waiting:
                labeller.label(images.shard(number), out, bar.advance)
