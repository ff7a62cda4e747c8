"""The unit of pseudo-labelling: one image shard in, one label shard out, the same bytes every time.

What a label is may depend on the teacher, the settings and the shard alone. So images are batched inside one shard,
in windows of fixed length, grouped by network size: how often a run was interrupted, and which other shards there
are, changes nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_engine.writer import ShardWriter
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import encode_dz16
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import Shard
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.preprocess import prepare
from depth_anything_train.runtime import UserError, write_json

LABEL = "disparity.dz16"
MAX_EXAMPLES = 5  # keys of bad images named in a manifest, by reason


@dataclass(frozen=True)
class LabelSettings:
    """Everything besides teacher and image that a label depends on.

    Args:
        size: shorter side in pixels at which the teacher sees an image.
        batch_size: images of one network size that go through the teacher together.
        windows: how many batches of images are read before any is labelled.

    Raises:
        UserError: one of them is no whole number of at least 1.
    """

    size: int
    batch_size: int = 8
    windows: int = 4

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"Expected a whole number of at least 1 for {name}, but came {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class _Image:
    key: str
    pixels: torch.Tensor | None  # (1, 3, h, w), or None for an image that cannot be used
    reason: str = ""


class ShardLabeller:
    """A teacher that labels image shards; reading and encoding run beside it in threads.

    Args:
        teacher: a relative model.
        settings: what else the labels depend on.
        max_bad_share: share of unusable images in a shard above which it is refused.
        workers: threads that decode images and encode labels.
    """

    def __init__(
        self, teacher: DepthAnything, settings: LabelSettings, *, max_bad_share: float = 0.1, workers: int = 2
    ) -> None:
        self.teacher, self.settings = teacher, settings
        self.max_bad_share, self.workers = max_bad_share, max(workers, 1)

    def label(self, shard: Shard, out: Path, on_images: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
        """Label one image shard into `out`, and write its manifest last.

        An image that cannot be used keeps its place with a label that is invalid everywhere, so that keys and order
        stay those of the image shard.

        Args:
            shard: the images.
            out: folder of the label shards.
            on_images: told how many more images are done.

        Returns:
            The manifest, as written to `<name>.json`: the only mark that the shard is done.

        Raises:
            UserError: more than `max_bad_share` of the images cannot be used.
        """
        dropped: dict[str, list[str]] = {}
        with ShardWriter(out / shard.path.name) as writer, ThreadPoolExecutor(self.workers) as pool:
            for images in self._windows(shard, pool):
                labels = pool.map(_encode, self._predict([image.pixels for image in images]))
                for image, label in zip(images, labels, strict=True):
                    writer.add(image.key, {LABEL: label})
                    if image.pixels is None:
                        dropped.setdefault(image.reason, []).append(image.key)
                on_images(len(images))
            self._refuse_if_bad(shard, dropped)
            writer.commit()
        manifest = {
            "count": shard.count,
            "labelled": shard.count - sum(map(len, dropped.values())),
            "dropped": {key: {"count": len(k), "examples": k[:MAX_EXAMPLES]} for key, k in dropped.items()},
            "input": shard.digest,
            "output": Shard(out / shard.path.name).digest,
            "teacher": self.teacher.hash,
            "settings": self.settings.to_dict(),
        }
        write_json(manifest_path(out, shard.path), manifest)
        return manifest

    def _windows(self, shard: Shard, pool: ThreadPoolExecutor) -> Iterator[list[_Image]]:
        """Images in order, a window at a time; the next window is read while the teacher is at work on this one."""
        length = self.settings.batch_size * self.settings.windows
        starts = range(0, shard.count, length)

        def submit(start: int) -> list[Future[_Image]]:
            return [pool.submit(self._read, shard, i) for i in range(start, min(start + length, shard.count))]

        coming: Iterator[list[Future[_Image]]] = itertools.chain(map(submit, starts), [[]])
        current = next(coming)
        for following in coming:
            yield [future.result() for future in current]
            current = following

    def _read(self, shard: Shard, number: int) -> _Image:
        record = shard.read(number)  # a damaged shard stops the run: it is no matter of single images
        try:
            image = decode_image(record.image)
            patch = self.teacher.model.config.encoder.patch_size
            return _Image(record.key, prepare([image], self.settings.size, patch=patch))
        except (BadSample, UserError) as error:
            return _Image(record.key, None, getattr(error, "reason", "unusable_size"))

    def _predict(self, images: list[torch.Tensor | None]) -> list[NDArray[np.float32] | None]:
        """Disparity (h, w) per image, None where there is no image."""
        results: list[NDArray[np.float32] | None] = [None] * len(images)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            if image is not None:
                by_size.setdefault(tuple(image.shape), []).append(number)
        for numbers in by_size.values():
            for start in range(0, len(numbers), self.settings.batch_size):
                batch = numbers[start : start + self.settings.batch_size]
                disparity = self.teacher.infer(torch.cat([images[n] for n in batch]))  # type: ignore[misc]
                for number, one in zip(batch, disparity[:, 0].cpu().numpy(), strict=True):
                    results[number] = one
        return results

    def _refuse_if_bad(self, shard: Shard, dropped: dict[str, list[str]]) -> None:
        reasons = Counter({reason: len(keys) for reason, keys in dropped.items()})
        if reasons.total() > self.max_bad_share * shard.count:
            example = next(iter(dropped.values()))[0]
            raise UserError(
                f"{reasons.total()} of {shard.count} images of {shard.path.name} cannot be used ({dict(reasons)}, "
                f"first {example}); mend the shard with `depth-anything verify`, or allow more with max_bad_share=."
            )


def manifest_path(out: Path, tar: Path) -> Path:
    """The manifest in `out` of the labels for an image shard."""
    return out / f"{tar.stem}.json"


def _encode(disparity: NDArray[np.float32] | None) -> bytes:
    if disparity is None:
        return encode_dz16(np.zeros((1, 1), np.float32), np.zeros((1, 1), bool))
    return encode_dz16(disparity, np.isfinite(disparity))
