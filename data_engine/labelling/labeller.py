"""The unit of pseudo-labelling: one image shard in, one label shard out, the same bytes every time.

What a label is may depend on the teacher, the settings and the shard alone. So images are batched inside one shard, in
its order: how often a run was interrupted, how many threads and workers it has, and which other shards there are,
changes nothing.

While the teacher is at work on one batch, the next is decoded and put on its device, and the labels of the one before
are encoded and written, each in threads of its own.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.labelling.batches import batches, nearest_aspect
from data_engine.labelling.manifest import Tally, describe, manifest_path
from data_engine.labelling.settings import LabelSettings, Teacher
from data_engine.writer import ShardWriter
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.schema import DISPARITY_DZ16, BadSample, BadShard
from depth_anything_train.data.shards import Shard
from depth_anything_train.data.transforms import check_aspect
from depth_anything_train.files import remove_leftovers, write_json
from depth_anything_train.parallel import in_order, map_ahead, prefetched
from depth_anything_train.runtime import UserError, fingerprint, require_share


@dataclass(frozen=True)
class _Image:
    """An image on its way to the teacher; one without shape cannot be used, and the reason says why."""

    number: int
    key: str
    shape: tuple[int, int] | None = None
    pixels: Any = None
    flags: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Label:
    """An encoded label on its way to the shard."""

    number: int
    key: str
    data: bytes
    flags: tuple[str, ...]
    reason: str


class ShardLabeller:
    """A teacher that labels image shards. It can be pickled if its teacher can, and then labels in other processes.

    Args:
        teacher: what predicts.
        settings: what else the labels depend on.
        max_bad_share: share of unusable images in a shard above which it is refused.
        workers: threads that decode images and encode labels.

    Raises:
        UserError: `max_bad_share` is no share, the teacher cannot see images of `size`, or one that is compiled would
            see any number of sizes.
    """

    def __init__(self, teacher: Teacher, settings: LabelSettings, *, max_bad_share: float = 0.1, workers: int = 4):
        require_share("max_bad_share", max_bad_share)
        teacher.network_size(settings.size, settings.size, settings.size)
        if teacher.compile and not settings.aspects:
            raise UserError("compile=true compiles once for each size of image: name a few aspects=[...] as well.")
        self.teacher, self.settings = teacher, settings
        self.max_bad_share, self.workers = max_bad_share, max(workers, 1)
        self.ahead = 2 * max(settings.batch_size, self.workers)  # images that are decoded, or written, at once

    @property
    def config(self) -> dict[str, Any]:
        """The settings that all labels of a folder share, as plain JSON."""
        settings = self.settings
        return {
            "size": settings.size,
            "aspects": None if settings.aspects is None else list(map(float, settings.aspects)),
            "flip": settings.flip,
            "precision": self.teacher.precision,
            "filters": asdict(settings.filters),
        }

    @property
    def rounding(self) -> dict[str, Any]:
        """The settings that change no more than the last digit: each manifest says which its shard was made with."""
        return {
            "batch_size": self.settings.batch_size,
            "patience": self.settings.patience,
            "compile": self.teacher.compile,
            "threads": self.teacher.threads,
        }

    @property
    def identity(self) -> dict[str, str]:
        """What every manifest repeats, so that two kinds of labels are never mixed."""
        return {"teacher": self.teacher.hash, "config": fingerprint(self.config)}

    def label(
        self,
        shard: Shard,
        out: Path,
        on_images: Callable[[int], None] = lambda count: None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Label one image shard into `out`, and write its manifest last.

        An image that cannot be used keeps its place with a label that is invalid everywhere, so that keys and order
        stay those of the image shard. One whose bytes are damaged is called `damaged-NUMBER`.

        Args:
            shard: the images.
            out: folder of the label shards.
            on_images: told how many more images are done.
            before_commit: called when all labels are written; if it raises, there is no shard.

        Returns:
            The manifest, as written to `<name>.json`: the only mark that the shard is done.

        Raises:
            BadShard: more than `max_bad_share` of the images cannot be used, or a key cannot be written.
        """
        path = out / shard.path.name
        remove_leftovers(out, f"{shard.path.stem}.")
        tally = Tally()
        with ShardWriter(path) as writer:
            try:
                self._fill(writer, tally, shard, on_images)
            except BadSample as error:
                raise BadShard(f"{shard.path.name} cannot be labelled: {error}") from None
            self._refuse_if_bad(shard, tally.dropped)
            before_commit()
            written = writer.commit()
        manifest = describe(shard, written, tally) | {"rounding": self.rounding, **self.identity}
        write_json(manifest_path(out, shard.path), manifest)
        return manifest

    def _fill(self, writer: ShardWriter, tally: Tally, shard: Shard, on_images: Callable[[int], None]) -> None:
        """Write all labels in order; a thread waits for each and writes it, and this one for the teacher alone."""

        def write(coming: Future[_Label]) -> None:
            label = coming.result()
            writer.add(label.key, {DISPARITY_DZ16: label.data})
            tally.add(label.number, label.key, label.flags, label.reason)

        writes: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self.workers) as pool, ThreadPoolExecutor(1) as writing:
            for label in in_order(self._labels(shard, pool)):
                writes.append(writing.submit(write, label))
                while len(writes) > self.ahead or (writes and writes[0].done()):
                    writes.popleft().result()
                    on_images(1)
            for done in writes:
                done.result()
                on_images(1)

    def _labels(self, shard: Shard, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Future[_Label]]]:
        """Number and coming label of each image, batch by batch.

        A batch is fetched when the next one is with the teacher: a GPU works on while its results are on their way.
        """
        before: tuple[list[_Image], Any] | None = None
        for images, batch in prefetched(self._loaded(shard, pool)):
            result = None if batch is None else self.teacher.infer(batch, flip=self.settings.flip)
            if before is not None:
                yield from self._encoded(*before, pool)
            before = images, result
        if before is not None:
            yield from self._encoded(*before, pool)

    def _loaded(self, shard: Shard, pool: ThreadPoolExecutor) -> Iterator[tuple[list[_Image], Any]]:
        """Batches of images, and what the teacher takes; None for an image that cannot be used."""
        coming = map_ahead(pool, partial(self._read, shard), range(shard.count), self.ahead)
        for images in batches(coming, self.settings.batch_size, self.settings.patience):
            pixels = [image.pixels for image in images]
            if self.teacher.compile:  # one graph a size: a batch that is not full is filled up
                pixels += pixels[-1:] * (self.settings.batch_size - len(pixels))
            yield images, None if images[0].shape is None else self.teacher.load(pixels)

    def _read(self, shard: Shard, number: int) -> _Image:
        try:
            record = shard.read(number)
        except BadSample as error:  # its key may be damaged as well
            return _Image(number, f"damaged-{number:06d}", reason=error.reason)
        try:
            image = decode_image(record.image)
            # Training leaves out strips; through a teacher they would be so long that one may end the whole run.
            shape = self._network_size(*check_aspect({"image": image, "key": record.key}))
        except UserError as error:
            return _Image(number, record.key, reason=getattr(error, "reason", "unusable_size"))
        flags = tuple(self.settings.filters.image_flags(image))
        return _Image(number, record.key, shape, self.teacher.prepare(image, *shape), flags)

    def _network_size(self, height: int, width: int) -> tuple[int, int]:
        if self.settings.aspects:
            height, width = 1000, round(1000 * nearest_aspect(height, width, self.settings.aspects))
        return self.teacher.network_size(height, width, self.settings.size)

    def _encoded(
        self, images: list[_Image], result: Any, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Future[_Label]]]:
        predictions = [None] * len(images) if result is None else self.teacher.fetch(result)
        for image, views in zip(images, predictions, strict=False):  # a batch may have been filled up
            yield image.number, pool.submit(self._encode, image, views)

    def _encode(self, image: _Image, views: NDArray[np.float32] | None) -> _Label:
        """Quantise and compress a prediction (V, h, w): of the image and, with flip, of the mirrored one."""
        if views is None:
            data, flags = encode_dz16(np.zeros((1, 1), np.float32), np.zeros((1, 1), bool)), image.flags
        else:
            disparity = views.mean(0) if len(views) > 1 else views[0]
            data = encode_dz16(disparity, np.isfinite(disparity))
            flags = (*image.flags, *self.settings.filters.label_flags(views))
        return _Label(image.number, image.key, data, flags, image.reason)

    def _refuse_if_bad(self, shard: Shard, dropped: dict[str, list[str]]) -> None:
        reasons = Counter({reason: len(keys) for reason, keys in dropped.items()})
        if reasons.total() > self.max_bad_share * shard.count:
            example = next(iter(dropped.values()))[0]
            raise BadShard(
                f"{reasons.total()} of {shard.count} images of {shard.path.name} cannot be used ({dict(reasons)}, "
                f"first {example}); see which with "
                "`depth-anything verify`, then download the shard again, or allow more with max_bad_share=."
            )
