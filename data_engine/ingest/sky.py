"""Labelled shards once more, with the sky marked in each sample: V1 section 3.1, as a stage of its own.

Everything else keeps its bytes; the mask is a member `sky.png` at the size of the label. Sky is where the segmenter is
sure of it and nothing is labelled. A false sky would teach that a white wall is infinitely far, a missed one nothing:
so a region is dropped as a whole if it is tiny, or if the label measured things in it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import RawSample, choose
from data_engine.ingest.labelled import encode_mask
from data_engine.ingest.sky_segmenter import SkySegmenter
from depth_anything_train.data.exclusions import select
from depth_anything_train.data.labels import decode_pair
from depth_anything_train.data.schema import LABELLED, SKY
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.runtime import UserError

BOOKKEEPING = ("schema", "kind", "source", "fingerprint", "count", "shards", "drops", "notes", "licences", "settings")
"""What dataset.json says about a folder of shards, and not about the data set in it."""


class Stored(NamedTuple):
    """A sample of the labelled shards; the digest of its shard makes sure that it stays the same."""

    shard: str
    number: int
    position: int
    digest: str

    def __str__(self) -> str:
        return f"{self.shard}, sample {self.number}"


@dataclass(frozen=True)
class Sky:
    """Labelled shards and a SegFormer.

    Args:
        root: folder of labelled shards.
        segmenter: a transformers folder or a name on the hub.
        revision: branch, tag or commit of the model on the hub.
        device: where it runs: `auto`, `cpu`, `cuda`.
        confidence: probability from which on a pixel is sky.
        smallest: smallest region, as a share of the pixels.
        max_labelled: a region is no sky if the share of labelled pixels in it is above this share of the whole map's.
        count, seed: take only so many samples, drawn by the seed.

    Raises:
        UserError: a share that is none.
    """

    root: str
    segmenter: str
    revision: str | None = None
    device: str = "auto"
    confidence: float = 0.5
    smallest: float = 0.001
    max_labelled: float = 0.2
    count: int | None = None
    seed: int = 0

    kind = LABELLED

    @property
    def schema(self) -> int:
        """That of the shards whose labels it passes on."""
        return int(_folder(self.root).info["schema"])

    def __post_init__(self) -> None:
        shares = (self.confidence, self.smallest, self.max_labelled)
        if not all(0 <= share <= 1 for share in shares):
            raise UserError(f"Expected confidence, smallest and max_labelled from 0 to 1, but got {shares}.")

    @property
    def source(self) -> str:
        """Name of the data set in the shards."""
        return str(_folder(self.root).info["source"])

    def items(self) -> Sequence[Stored]:
        """All samples but those on the list of bad keys, which is made from these shards and does not fit the new ones.

        Raises:
            UserError: no labelled shards there, or their list of bad keys cannot be read or leaves nothing.
        """
        folder = _folder(self.root)
        if folder.info["kind"] != LABELLED:
            raise UserError(f"Expected labelled shards in {self.root}, but it holds {folder.info['kind']}.")
        stored, left = [], select(folder, folder)
        for position in (left[number] for number in range(len(left))):
            shard = bisect.bisect_right(folder.starts, position) - 1
            number = position - folder.starts[shard]
            stored.append(Stored(folder.shards[shard].name, number, position, folder.digest(shard)))
        return choose(stored, self.count, self.seed)

    def load(self, item: Stored) -> RawSample:
        """Read one sample and mark its sky. A mask that the data set itself came with stays.

        Raises:
            BadSample: as the decoders.
        """
        record = _folder(self.root)[item.position]
        members = {extension: bytes(content) for extension, content in record.members.items()}
        if SKY in members:
            return RawSample(record.key, members, {"sky_known": 1})
        image, _, valid = decode_pair(record)
        probability = _segmenter(self.segmenter, self.revision, self.device).probability(image)
        sky = self.find_sky(probability, valid)
        notes = {"sky_found": 1} if sky.any() else {}
        return RawSample(record.key, {**members, SKY: encode_mask(sky)}, notes)

    def find_sky(self, probability: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The sky among the pixels without a label.

        Args:
            probability: probability of sky, (h, w), 0 to 1, at any size.
            valid: where the label is valid, (H, W).

        Returns:
            (H, W) bool, False where `valid`.
        """
        sure = cv2.resize(probability, valid.shape[::-1], interpolation=cv2.INTER_LINEAR) >= self.confidence
        _, regions = cv2.connectedComponents(sure.astype(np.uint8))
        areas = np.bincount(regions.ravel())
        labelled = np.bincount(regions[valid], minlength=len(areas)) / np.maximum(areas, 1)
        kept = (areas >= self.smallest * valid.size) & (labelled <= self.max_labelled * valid.mean())
        kept[0] = False  # what is not sure
        return kept[regions] & ~valid

    def info(self) -> dict[str, Any]:
        """What is known of the data set, and the settings of this stage beside those before it."""
        before = _folder(self.root).info
        names = ("confidence", "smallest", "max_labelled", "count", "seed")
        own = {name: value for name, value in asdict(self).items() if name in names}
        own["segmenter"] = _segmenter(self.segmenter, self.revision, self.device).hash
        facts = {name: fact for name, fact in before.items() if name not in BOOKKEEPING}
        return {**facts, "settings": {**before.get("settings", {}), "sky": own}}


@lru_cache(maxsize=1)
def _folder(root: str) -> ShardFolder:
    return ShardFolder(root)


@lru_cache(maxsize=1)
def _segmenter(source: str, revision: str | None, device: str) -> SkySegmenter:
    return SkySegmenter.from_pretrained(source, revision=revision, device=device)
