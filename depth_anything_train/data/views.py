"""From a slot to a training view, and from the views of a step to a batch: what the workers of the loader do.

    source.load -> Geometry -> perturbation of the stream, if any -> collate -> CutMix (unlabelled)

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
from torch import Tensor
from torch.utils.data import Dataset

from depth_anything_train.data.cache import SampleCache
from depth_anything_train.data.colour import Perturbation
from depth_anything_train.data.cutmix import CutMix, cutmix
from depth_anything_train.data.hand_over import SharedBuffers
from depth_anything_train.data.order import Slot
from depth_anything_train.data.schema import NO_CLASS, BadSample
from depth_anything_train.data.sources import Sample, SemanticSource, Source
from depth_anything_train.data.transforms import Geometry
from depth_anything_train.runtime import UserError, keyed_seed
from depth_anything_train.types import Batch

UNLABELLED = "unlabelled"
"""Name of the stream CutMix is applied to."""


class Loaded(NamedTuple):
    """What a worker hands over for one slot: a training view, or why there is none."""

    slot: Slot
    sample: Sample | UserError


class Collated(NamedTuple):
    """What a worker hands over for one step: the batch, its number of samples, and (reason, message) of bad ones."""

    batch: Batch
    samples: int
    problems: list[tuple[str, str]]


class TrainingViews(Dataset[Loaded]):
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

    def __getitem__(self, slot: Slot) -> Loaded:
        """Load and transform. Errors travel as values, because a raised one would reach the user as a traceback."""
        view = (slot.stream, slot.epoch, slot.index)
        try:
            sample = self.cache.get((slot.stream, slot.index), lambda: self._fitted(slot))
            sample = self.geometry.crop(sample, np.random.default_rng(keyed_seed(self.seed, "geometry", *view)))
        except UserError as error:
            return Loaded(slot, error)
        if (perturb := self.perturbations.get(slot.stream)) is not None:
            sample["image"] = perturb(sample["image"], keyed_seed(self.seed, "perturbation", *view))
        return Loaded(slot, sample)

    def _fitted(self, slot: Slot) -> Sample:
        return self.geometry.fit(self.sources[slot.stream].load(slot.index))


@dataclass(frozen=True)
class Collate:
    """Stacks the views of one step and mixes the unlabelled ones."""

    sources: Mapping[str, Source]
    shape: tuple[int, int]
    cutmix: CutMix | None
    seed: int
    buffers: SharedBuffers | None = None

    def __call__(self, loaded: list[Loaded]) -> Collated | UserError:
        """The batch of each stream by its name; where there are buffers it is left there."""
        if self.buffers is not None:
            self.buffers.begin()
        problems = []
        streams: dict[str, list[Loaded]] = {name: [] for name in self.sources}
        for slot, sample in loaded:
            if isinstance(sample, BadSample):
                problems.append((sample.reason, str(sample)))
                sample = self._blank(slot)
            elif isinstance(sample, UserError):
                return sample
            streams[slot.stream].append(Loaded(slot, sample))
        batch = {name: self._stack(name, views) for name, views in streams.items()}
        return Collated(batch if self.buffers is None else self.buffers.place(batch), len(loaded), problems)

    def _blank(self, slot: Slot) -> Sample:
        """A black image without any label: it keeps its place in the batch and adds nothing to a loss."""
        shape = self.shape
        blank: Sample = {"image": np.zeros((*shape, 3), np.uint8), "key": f"bad {slot.stream} {slot.index}"}
        if isinstance(self.sources[slot.stream], SemanticSource):
            return blank | {"classes": np.full(shape, NO_CLASS, np.uint8)}
        return blank | {"disparity": np.zeros(shape, np.float32), "valid": np.zeros(shape, bool)}

    def _stack(self, name: str, views: list[Loaded]) -> dict[str, Any]:
        samples: list[Any] = [view.sample for view in views]
        batch: dict[str, Any] = {
            quantity: self._stack_arrays([sample[quantity] for sample in samples])
            for quantity in samples[0]
            if quantity != "key"
        }
        batch["key"] = [sample["key"] for sample in samples]
        batch["source"] = [self.sources[name].name_of(view.slot.index) for view in views]
        batch["image"] = batch["image"].permute(0, 3, 1, 2)  # stays channels-last in memory, which convolutions like
        if "disparity" in batch:
            batch |= {quantity: batch[quantity][:, None] for quantity in ("disparity", "valid")}
        if name == UNLABELLED:
            self._mix(batch, [view.slot for view in views])
        return batch

    def _stack_arrays(self, arrays: list[NDArray[Any]]) -> Tensor:
        room = None if self.buffers is None else self.buffers.room((len(arrays), *arrays[0].shape), arrays[0].dtype)
        return torch.from_numpy(np.stack(arrays, out=room))

    def _mix(self, batch: dict[str, Any], slots: list[Slot]) -> None:
        if self.cutmix is None:
            batch["region"] = torch.ones_like(batch["valid"])
            return
        boxes = self.cutmix.boxes(self.shape[0], self.seed, slots[0].step, [slot.position for slot in slots])
        batch["region"] = cutmix(batch["image"], batch["disparity"], batch["valid"], boxes)
