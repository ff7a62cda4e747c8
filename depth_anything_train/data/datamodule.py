"""Shards to training batches: a loader that can be entered at any step and remembers nothing.

    StepBatches -> source.load -> Geometry -> StrongPerturbation (unlabelled) -> collate -> CutMix (unlabelled)

What all views of a sample have in common, decoded and resized, stays in memory as far as `cache_mb` reaches.

Images stay uint8 to the device: the hand-over from a worker costs a third of what float32 would.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from depth_anything_train.data.cache import SampleCache
from depth_anything_train.data.cutmix import CutMix, cutmix
from depth_anything_train.data.exclusions import BAD_KEYS_FILE
from depth_anything_train.data.file_cache import CACHE_GB
from depth_anything_train.data.order import Slot, StepBatches, Stream, make_order
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import NO_CLASS, BadSamples, Sample, SemanticSource, Source
from depth_anything_train.data.transforms import Geometry, StrongPerturbation
from depth_anything_train.runtime import UserError, console, keyed_seed
from depth_anything_train.types import LabelledBatch, SemanticBatch, StudentBatch, UnlabelledBatch

UNLABELLED = "unlabelled"
"""The stream that is perturbed and mixed."""

Batch = LabelledBatch | UnlabelledBatch | SemanticBatch | StudentBatch


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
        perturbation: StrongPerturbation | None,
        seed: int,
        cache: SampleCache,
    ) -> None:
        self.sources, self.geometry, self.perturbation, self.seed = sources, geometry, perturbation, seed
        self.cache = cache

    def __getitem__(self, slot: Slot) -> Loaded:
        """Load and transform. Errors travel as values, because a raised one would reach the user as a traceback."""
        view = (slot.stream, slot.epoch, slot.index)
        try:
            sample = self.cache.get((slot.stream, slot.index), lambda: self._fitted(slot))
            sample = self.geometry.crop(sample, np.random.default_rng(keyed_seed(self.seed, "geometry", *view)))
        except UserError as error:
            return Loaded(slot, error)
        if slot.stream == UNLABELLED and self.perturbation is not None:
            sample["image"] = self.perturbation(sample["image"], keyed_seed(self.seed, "perturbation", *view))
        return Loaded(slot, sample)

    def _fitted(self, slot: Slot) -> Sample:
        return self.geometry.fit(self.sources[slot.stream].load(slot.index))


@dataclass(frozen=True)
class Collate:
    """Stacks the views of one step and mixes the unlabelled ones."""

    sources: Mapping[str, Source]
    size: int
    cutmix: CutMix | None
    seed: int

    def __call__(self, loaded: list[Loaded]) -> Collated | UserError:
        """One batch: of its stream if there is only one, else a dict of them by name."""
        problems = []
        streams: dict[str, list[Loaded]] = {name: [] for name in self.sources}
        for slot, sample in loaded:
            if isinstance(sample, BadSample):
                problems.append((sample.reason, str(sample)))
                sample = self._blank(slot)
            elif isinstance(sample, UserError):
                return sample
            streams[slot.stream].append(Loaded(slot, sample))
        batches: dict[str, Any] = {name: self._stack(name, views) for name, views in streams.items()}
        batch = batches if len(batches) > 1 else next(iter(batches.values()))
        return Collated(batch, len(loaded), problems)  # type: ignore[arg-type]

    def _blank(self, slot: Slot) -> Sample:
        """A black image without any label: it keeps its place in the batch and adds nothing to a loss."""
        shape = (self.size, self.size)
        blank: Sample = {"image": np.zeros((*shape, 3), np.uint8), "key": f"bad {slot.stream} {slot.index}"}
        if isinstance(self.sources[slot.stream], SemanticSource):
            return blank | {"classes": np.full(shape, NO_CLASS, np.uint8)}
        return blank | {"disparity": np.zeros(shape, np.float32), "valid": np.zeros(shape, bool)}

    def _stack(self, name: str, views: list[Loaded]) -> dict[str, Any]:
        samples: list[Any] = [view.sample for view in views]
        batch: dict[str, Any] = {
            quantity: torch.from_numpy(np.stack([sample[quantity] for sample in samples]))
            for quantity in samples[0]
            if quantity != "key"
        }
        batch["key"] = [sample["key"] for sample in samples]
        batch["image"] = batch["image"].permute(0, 3, 1, 2)  # stays channels-last in memory, which convolutions like
        if "disparity" in batch:
            batch |= {quantity: batch[quantity][:, None] for quantity in ("disparity", "valid")}
        if name == UNLABELLED:
            self._mix(batch, [view.slot for view in views])
        return batch

    def _mix(self, batch: dict[str, Any], slots: list[Slot]) -> None:
        if self.cutmix is None:
            batch["region"] = torch.ones_like(batch["valid"])
            return
        boxes = self.cutmix.boxes(self.size, self.seed, slots[0].step, [slot.position for slot in slots])
        mixed = cutmix(batch["image"], batch["disparity"], batch["valid"], boxes)
        batch.update(zip(("image", "disparity", "valid", "region"), mixed, strict=True))


class TrainLoader:
    """Iterates batches and counts bad samples in the main process, so that the count depends on no worker."""

    def __init__(self, loader: DataLoader[Loaded], bad: BadSamples) -> None:
        self.loader, self.bad = loader, bad

    def __iter__(self) -> Iterator[Batch]:
        for collated in self.loader:
            if isinstance(collated, UserError):
                raise collated
            self.bad.count(collated.samples, collated.problems)
            yield collated.batch


class ShardDataModule(LightningDataModule):
    """Training batches from shards, in an order that only depends on the seed.

    Yields LabelledBatch for a source `labelled`, SemanticBatch for `semantic`, and StudentBatch for `labelled` and
    `unlabelled` together.

    Args:
        sources: stream -> its samples.
        batch: stream -> number of samples in a global batch, over all processes.
        size: side of the square crops in pixels.
        steps: length of the run in optimizer steps.
        seed: of order and augmentation.
        weights: stream -> share of each of its folders, whole numbers; None takes the folders as one.
        shuffle_shards: shuffle inside groups of so many shards instead of over all samples; for object stores.
        workers: processes that load; 0 loads in the main process.
        flip: probability of a horizontal flip.
        perturbation: what the student's unlabelled images go through.
        cutmix: rectangles exchanged between them.
        max_bad_share: share of samples that may be unusable.
        cache_mb: megabytes of decoded samples that stay in memory, in this process or shared out to its workers.

    Raises:
        UserError: the batch cannot be made of these sources.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Source],
        batch: Mapping[str, int],
        size: int,
        steps: int,
        seed: int,
        weights: Mapping[str, Sequence[int] | None] | None = None,
        shuffle_shards: int | None = None,
        workers: int = 0,
        flip: float = 0.5,
        perturbation: StrongPerturbation | None = None,
        cutmix: CutMix | None = None,
        max_bad_share: float = 0.1,
        cache_mb: float = 0,
    ) -> None:
        super().__init__()
        if set(sources) != set(batch):
            raise UserError(
                f"Expected data.batch to say how many of each of {[*sources]}, but it names {[*batch]}; "
                "use the batch that belongs to data=."
            )
        orders = {
            name: make_order(source.shard_counts(), name=name, weights=(weights or {}).get(name), shards=shuffle_shards)
            for name, source in sources.items()
        }
        self.streams = {name: Stream(order, batch[name]) for name, order in orders.items()}
        if shuffle_shards is None:
            _warn_of_traffic(sources.values())
        self.steps, self.seed, self.workers, self.max_bad_share = steps, seed, workers, max_bad_share
        self.cutmix = cutmix
        self.bad = BadSamples(max_bad_share)
        self.views = TrainingViews(
            sources, Geometry(size, flip=flip), perturbation, seed, SampleCache(cache_mb / max(workers, 1))
        )
        self.collate = Collate(sources, size, cutmix, seed)

    def setup(self, stage: str) -> None:
        """Say what is left out, once for all processes."""
        if self.trainer is None or self.trainer.is_global_zero:
            for source in self.views.sources.values():
                for sentence in source.left_out():
                    console.print(sentence, soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: which samples the numbers mean. Where the loader stands, the trainer's step says."""
        return {name: source.digest for name, source in self.views.sources.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the samples of the run that is continued.

        Raises:
            UserError: they changed, so that its order could not go on.
        """
        if changed := [name for name, digest in self.state_dict().items() if state_dict.get(name, digest) != digest]:
            raise UserError(
                f"The {' and '.join(changed)} samples changed since this run began: other shards, or another "
                f"{BAD_KEYS_FILE} or flags beside them; put back what was there, or start again in another out=."
            )

    def train_dataloader(self) -> TrainLoader:
        """The batches of this process, from the step at which the trainer stands.

        Raises:
            UserError: the trainer would run longer than the data, or its processes cannot share a batch.
        """
        trainer = self.trainer
        assert trainer is not None
        if not 0 <= trainer.max_steps <= self.steps:
            raise UserError(
                f"Expected trainer.max_steps in 0 to data.steps={self.steps}, but came {trainer.max_steps}; "
                "set both by steps=."
            )
        repeat = trainer.accumulate_grad_batches
        return self.loader(
            start=trainer.global_step * repeat,
            stop=self.steps * repeat,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def loader(self, *, start: int = 0, stop: int | None = None, rank: int = 0, world_size: int = 1) -> TrainLoader:
        """The batches `start` to `stop` (default: `steps`) of one of `world_size` processes.

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
        )
        share = self.streams[UNLABELLED].slots // world_size if UNLABELLED in self.streams else 0
        if self.cutmix is not None and share % 2:
            raise UserError(
                f"Expected an even number of unlabelled images in each of {world_size} processes, because CutMix "
                f"pairs them, but it is {share}; use a multiple of {2 * world_size} for data.batch.unlabelled."
            )
        # A process forked from this one starts at once and ends with it: torch's workers watch their parent, which
        # under "forkserver" is the server, so that killing the run would leave them behind. Forking is safe although
        # this process has threads, because a worker computes in one thread, and never touches the device.
        context = "fork" if self.workers and sys.platform == "linux" else None
        loader = DataLoader(
            self.views,
            batch_sampler=order,
            collate_fn=self.collate,
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            multiprocessing_context=context,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every start would draw from the seed of the training itself
        )
        self.bad = BadSamples(self.max_bad_share)
        return TrainLoader(loader, self.bad)

    def record(self) -> list[dict[str, Any]]:
        """What a model's record says about its data, a folder each; see `Source.record`."""
        return [folder for source in self.views.sources.values() for folder in source.record()]

    def close(self) -> None:
        """Say what could not be used since the loader was made.

        Raises:
            UserError: nothing could.
        """
        self.bad.close()


def _warn_of_traffic(sources: Iterable[Source]) -> None:
    """A shuffle over all samples asks for another shard each time: what the cache cannot hold is fetched again."""
    for folder in {folder.path: folder for source in sources for folder in (*source.folders, *source.images)}.values():
        if not folder.fits_cache():
            console.print(
                f"{folder.path} is larger than the cache, so that its shards will be fetched many times; "
                f"set data.shuffle_shards=10, or raise {CACHE_GB}.",
                soft_wrap=True,
            )


def _start_worker(worker: int) -> None:
    """Torch is down to one thread in a worker already; OpenCV must be told.

    A signal that asks the run to stop often goes to all of its processes; the step it is at still needs its images.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
