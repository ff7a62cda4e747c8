"""Shards to training batches: a loader that can start at any step and has no state.

StepBatches says which samples a step has; TrainingBatches makes a batch of them, in the workers of a loader.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from depth_anything_train.data.bad_samples import BadSamples
from depth_anything_train.data.cache import SampleCache
from depth_anything_train.data.colour import Perturbation, StrongPerturbation
from depth_anything_train.data.cutmix import CutMix
from depth_anything_train.data.file_cache import CACHE_GB
from depth_anything_train.data.hand_over import SharedBuffers
from depth_anything_train.data.loader import TrainLoader, start_worker
from depth_anything_train.data.order import StepBatches, Stream, make_order
from depth_anything_train.data.prefetch import ShardPrefetcher
from depth_anything_train.data.sources import Source
from depth_anything_train.data.transforms import Geometry
from depth_anything_train.data.views import UNLABELLED, Collated, TrainingBatches, TrainingViews
from depth_anything_train.runtime import UserError, console
from depth_anything_train.types import Batch

AHEAD = 2
"""Batches that a worker loads before they are asked for."""

BYTES_A_PIXEL = 3 + 4 + 1 + 1
"""Of the largest sample: image, disparity, valid, region."""


class ShardDataModule(LightningDataModule):
    """Training batches from shards, in an order that only depends on the seed.

    Yields a batch by the name of each source: an UnlabelledBatch for `unlabelled`, a SemanticBatch for those with
    classes, a LabelledBatch for all others.

    Args:
        sources: stream -> its samples.
        batch: stream -> number of samples in a global batch, over all processes.
        size: side of the square crops in pixels, or the [height, width] to which samples are stretched.
        steps: length of the run in optimizer steps.
        seed: seed of order and augmentation.
        weights: stream -> share of each of its folders, whole numbers; None takes the folders as one.
        shuffle_shards: shuffle inside groups of so many shards instead of over all samples; for object stores.
        workers: processes that load; 0 loads in the main process.
        flip: probability of a horizontal flip.
        rotate_deg: largest random rotation either way, in degrees.
        geometry: how a view is cut, given size, flip and rotate_deg.
        colour: what the colours of all other images than the student's unlabelled ones go through.
        perturbation: what the student's unlabelled images go through.
        cutmix: rectangles exchanged between the student's unlabelled images.
        max_bad_share: share of samples that may be unusable.
        cache_mb: megabytes of decoded samples that stay in memory, in this process or shared out to its workers.
        max_per_device: the largest micro-batch: images that a device takes at a time. A larger share of the batch comes
            in several parts (gradient accumulation). None takes it at once.

    Raises:
        UserError: the batch cannot be made of these sources, or weights are of none of them.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Source],
        batch: Mapping[str, int],
        size: int | Sequence[int],
        steps: int,
        seed: int,
        weights: Mapping[str, Sequence[int] | None] | None = None,
        shuffle_shards: int | None = None,
        workers: int = 0,
        flip: float = 0.5,
        rotate_deg: float = 0.0,
        geometry: Callable[..., Geometry] = Geometry,
        colour: Perturbation | None = None,
        perturbation: StrongPerturbation | None = None,
        cutmix: CutMix | None = None,
        max_bad_share: float = 0.1,
        cache_mb: float = 0,
        max_per_device: int | None = None,
    ) -> None:
        super().__init__()
        if set(sources) != set(batch):
            raise UserError(
                f"Expected data.batch to say how many of each of {[*sources]}, but it names {[*batch]}; "
                "use the batch that belongs to data=."
            )
        weights = weights or {}
        if unknown := [name for name in weights if name not in sources]:
            raise UserError(f"Expected data.weights for streams of {[*sources]}, but it names {unknown}.")
        orders = {
            name: make_order(source.shard_counts(), name=name, weights=weights.get(name), shards=shuffle_shards)
            for name, source in sources.items()
        }
        self.streams = {name: Stream(order, batch[name]) for name, order in orders.items()}
        self.shuffled = shuffle_shards is None
        self.sources = sources
        self.steps, self.seed, self.workers, self.max_bad_share = steps, seed, workers, max_bad_share
        self.cutmix, self.max_per_device = cutmix, max_per_device
        self.bad = BadSamples(max_bad_share)
        self.loaders: list[TrainLoader] = []
        views = geometry(size, flip=flip, rotate_deg=rotate_deg)
        if cutmix is not None and views.stretched:
            raise UserError(f"Expected one number as data.size where CutMix is used, but got {size}.")
        chosen = {name: perturbation if name == UNLABELLED else colour for name in sources}
        perturbations = {name: perturb for name, perturb in chosen.items() if perturb is not None}
        self.views = TrainingViews(sources, views, perturbations, seed, SampleCache(cache_mb / max(workers, 1)))
        self.batches = TrainingBatches(self.views, cutmix)

    def setup(self, stage: str) -> None:
        """Say what is left out, once for all processes."""
        if self.trainer is None or self.trainer.is_global_zero:
            for source in self.sources.values():
                for sentence in source.left_out():
                    console.print(sentence, soft_wrap=True)
            if self.shuffled:
                _warn_of_traffic(self.sources.values())

    def content(self) -> dict[str, str]:
        """Stream -> a hash of its samples: with the seed it decides all batches, wherever the folders lie."""
        return {name: source.digest for name, source in self.sources.items()}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: what could not be used so far. The trainer's step says where the loader is.

        Every process must call it.
        """
        return self.bad.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count from the checkpoint."""
        self.bad = BadSamples(self.max_bad_share, before=state_dict)

    def train_dataloader(self) -> TrainLoader:
        """The batches of this process, from the step at which the trainer stands.

        Raises:
            UserError: the trainer would run longer than the data, or its processes cannot share a batch.
        """
        trainer = self.trainer
        assert trainer is not None
        if not 0 <= trainer.max_steps <= self.steps:
            raise UserError(
                f"Expected trainer.max_steps in 0 to data.steps={self.steps}, but got {trainer.max_steps}; "
                "set both by steps=."
            )
        return self.loader(
            start=trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            parts=trainer.accumulate_grad_batches,
        )

    def parts(self, world_size: int) -> int:
        """Steps of gradient accumulation: how many micro-batches make the share of each of `world_size` devices.

        As few as `max_per_device` allows.

        Raises:
            UserError: the share cannot be divided so far.
        """
        slots = {name: stream.slots for name, stream in self.streams.items()}
        images = sum(slots.values())
        if self.max_per_device is None:
            return 1
        for parts in range(1, images // world_size + 1):
            if images > self.max_per_device * world_size * parts:
                continue
            if all(count % (world_size * parts * self._pairs(name)) == 0 for name, count in slots.items()):
                return parts
        raise UserError(
            f"Expected a batch of which each of {world_size} devices can take at most max_per_device="
            f"{self.max_per_device} images at a time, but data.batch is {slots} and cannot be divided into equal parts "
            "of that size; change max_per_device, or the number of devices."
        )

    def _pairs(self, stream: str) -> int:
        """How many images of a stream belong together."""
        return 2 if stream == UNLABELLED and self.cutmix is not None else 1

    def loader(
        self, *, start: int = 0, stop: int | None = None, rank: int = 0, world_size: int = 1, parts: int = 1
    ) -> TrainLoader:
        """The batches of the steps `start` to `stop` (default: `steps`) of one of `world_size` processes.

        Raises:
            UserError: the processes cannot share a batch.
        """
        order = StepBatches(
            self.streams,
            steps=self.steps if stop is None else stop,
            seed=self.seed,
            start_step=start,
            rank=rank,
            world_size=world_size,
            parts=parts,
        )
        shares = world_size * parts
        for name, stream in self.streams.items():
            if stream.slots // shares % self._pairs(name):
                raise UserError(
                    f"Expected an even number of {name} images in each of {shares} shares of a batch, because CutMix "
                    f"pairs them, but it is {stream.slots // shares}; use a multiple of {2 * shares} for "
                    f"data.batch.{name}."
                )
        # A process forked from this one starts at once and ends with it: torch's workers watch their parent, which
        # under "forkserver" is the server, so that killing the run would leave them behind. Forking is safe although
        # this process has threads, because a worker computes in one thread, and never touches the device.
        context = "fork" if self.workers and sys.platform == "linux" else None

        def load(buffers: SharedBuffers | None) -> DataLoader[Collated | UserError]:
            return DataLoader(
                replace(self.batches, buffers=buffers),
                batch_size=None,
                sampler=order,
                collate_fn=_as_it_is,
                num_workers=self.workers,
                prefetch_factor=AHEAD if self.workers else None,
                worker_init_fn=start_worker,
                multiprocessing_context=context,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # else every start would draw from the seed of the training itself
            )

        images = sum(stream.slots for stream in self.streams.values()) // shares
        size = images * math.prod(self.views.geometry.shape) * BYTES_A_PIXEL + mmap.PAGESIZE  # to align arrays
        buffers = partial(SharedBuffers, self.workers, AHEAD + 1, size) if context == "fork" else None
        self.bad = BadSamples(self.max_bad_share, before=self.bad.before)
        by_groups = not self.shuffled and any(source.is_remote for source in self.sources.values())
        prefetcher = partial(ShardPrefetcher, order, self.sources) if by_groups else None
        self.loaders.append(TrainLoader(load, buffers, self.bad, prefetcher))
        return self.loaders[-1]

    def teardown(self, stage: str) -> None:
        """End the workers: training may end before the last batch."""
        for loader in self.loaders:
            loader.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the workers."""
        self.teardown("fit")

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1, parts: int = 1, part: int = 0) -> Batch:
        """The batch of any step, or a part of it, loaded now: the same as the loader yields at that step.

        Raises:
            UserError: a source cannot be read.
        """
        share = {"rank": rank * parts + part, "world_size": world_size * parts}
        order = StepBatches(self.streams, steps=step + 1, seed=self.seed, start_step=step, **share)
        collated = self.batches[next(iter(order))]
        if isinstance(collated, UserError):
            raise collated
        return collated.batch

    def record(self) -> list[dict[str, Any]]:
        """What a model's record says about its data, a folder each; see `Source.record`."""
        return [folder for source in self.sources.values() for folder in source.record()]

    def close(self) -> None:
        """Say, once for all processes, what could not be used. Every process must call it.

        Raises:
            UserError: nothing could be used.
        """
        self.bad.close()


def _as_it_is(collated: Any) -> Any:
    return collated


def _warn_of_traffic(sources: Iterable[Source]) -> None:
    """A shuffle over all samples asks for another shard each time: what the cache cannot hold is fetched again."""
    for folder in {folder.path: folder for source in sources for folder in (*source.folders, *source.images)}.values():
        if not folder.fits_cache():
            console.print(
                f"{folder.path} is larger than the cache, so that its shards will be fetched many times; "
                f"set data.shuffle_shards=10, or raise {CACHE_GB}.",
                soft_wrap=True,
            )
