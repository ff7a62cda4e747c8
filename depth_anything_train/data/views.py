"""From a slot to a training view, and from the slots of a step to a batch: what the workers of the loader do.

    source.load -> Geometry -> perturbation of the stream, if any -> its place in the batch -> CutMix (unlabelled)

What all views of a sample have in common, decoded and resized, stays in memory as far as the cache reaches. Images stay
uint8 to the device: the hand-over from a worker costs a third of what float32 would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from depth_anything_train.data.cache import SampleCache
from depth_anything_train.data.colour import Perturbation
from depth_anything_train.data.cutmix import CutMix, cutmix
from depth_anything_train.data.hand_over import SharedBuffers
from depth_anything_train.data.order import Slot
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import Sample, Source
from depth_anything_train.data.transforms import Geometry
from depth_anything_train.runtime import UserError, keyed_seed
from depth_anything_train.types import Batch, Valid

UNLABELLED = "unlabelled"
"""Name of the stream CutMix is applied to."""


class Collated(NamedTuple):
    """What a worker hands over for one step: the batch, its number of samples, and (reason, message) of bad ones."""

    batch: Batch
    samples: int
    problems: list[tuple[str, str]]


class TrainingViews:
    """The training view of a slot: a pure function of the seed and the slot's stream, epoch and index."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        geometry: Geometry,
        perturbations: Mapping[str, Perturbation],
        seed: int,
        cache: SampleCache,
    ) -> None:
        self.sources, self.geometry, self.perturbations, self.seed = sources, geometry, perturbations, seed
        self.cache = cache

    def __getitem__(self, slot: Slot) -> Sample:
        """Load and transform.

        Raises:
            BadSample: the sample cannot be used. Beside it what sources raise.
        """
        view = (slot.stream, slot.epoch, slot.index)
        sample = self.cache.get((slot.stream, slot.index), lambda: self._fitted(slot))
        sample = self.geometry.crop(sample, np.random.default_rng(keyed_seed(self.seed, "geometry", *view)))
        if (perturb := self.perturbations.get(slot.stream)) is not None:
            sample["image"] = perturb(sample["image"], keyed_seed(self.seed, "perturbation", *view))
        return sample

    def _fitted(self, slot: Slot) -> Sample:
        return self.geometry.fit(self.sources[slot.stream].load(slot.index))


@dataclass(frozen=True)
class TrainingBatches(Dataset["Collated | UserError"]):
    """The batch of a step: views in their places, the unlabelled ones mixed.

    Each view is copied into its place before the next one is loaded: its arrays are still in the processor's cache
    then, and the next one gets their memory.
    """

    views: TrainingViews
    cutmix: CutMix | None
    buffers: SharedBuffers | None = None

    def __getitem__(self, slots: list[Slot]) -> Collated | UserError:
        """The batch of each stream by its name; where there are buffers it is left there.

        Errors travel as values, because a raised one would reach the user as a traceback.
        """
        if self.buffers is not None:
            self.buffers.begin()
        streams: dict[str, list[Slot]] = {name: [] for name in self.views.sources}
        for slot in slots:
            streams[slot.stream].append(slot)
        problems: list[tuple[str, str]] = []
        try:
            batch = {name: self._batch(name, places, problems) for name, places in streams.items()}
        except UserError as error:
            return error
        return Collated(batch if self.buffers is None else self.buffers.place(batch), len(slots), problems)

    def _batch(self, name: str, slots: list[Slot], problems: list[tuple[str, str]]) -> dict[str, Any]:
        source, blank = self.views.sources[name], self._blank(name)
        places = {quantity: self._room((len(slots), *pixels.shape), pixels.dtype) for quantity, pixels in blank.items()}
        keys = []
        for number, slot in enumerate(slots):
            try:
                sample = self.views[slot]
            except BadSample as error:
                problems.append((error.reason, str(error)))
                sample = blank | {"key": f"bad {name} {slot.index}"}
            for quantity, place in places.items():
                np.copyto(place[number], sample[quantity])
            keys.append(sample["key"])
        batch: dict[str, Any] = {quantity: torch.from_numpy(place) for quantity, place in places.items()}
        batch["key"], batch["source"] = keys, [source.name_of(slot.index) for slot in slots]
        batch["image"] = batch["image"].permute(0, 3, 1, 2)  # stays channels-last in memory, which convolutions like
        if "disparity" in batch:
            batch |= {quantity: batch[quantity][:, None] for quantity in ("disparity", "valid")}
        if name == UNLABELLED:
            batch["region"] = self._mix(batch, slots)
        return batch

    def _blank(self, name: str) -> Sample:
        """A black image without any label: it keeps its place in the batch and adds nothing to a loss."""
        shape = self.views.geometry.shape
        maps = {quantity: np.broadcast_to(value, shape) for quantity, value in self.views.sources[name].blank.items()}
        return {"image": np.broadcast_to(np.uint8(0), (*shape, 3)), **maps}

    def _room(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        room = None if self.buffers is None else self.buffers.room(shape, dtype)
        return np.empty(shape, dtype) if room is None else room

    def _mix(self, batch: dict[str, Any], slots: list[Slot]) -> Valid:
        """Mix in place, and tell which pixels are an image's own."""
        if self.cutmix is None:
            return torch.ones_like(batch["valid"])
        size, seed = self.views.geometry.shape[0], self.views.seed
        boxes = self.cutmix.boxes(size, seed, slots[0].step, [slot.position for slot in slots])
        return cutmix(batch["image"], batch["disparity"], batch["valid"], boxes)
