"""A segmenter on segmented shards: every sample is read, looked at and counted once, on one process or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import decode_classes
from depth_anything_train.data.schema import BadSample, Record
from depth_anything_train.data.segmentation import require_known
from depth_anything_train.data.test_sets import Records
from depth_anything_train.evaluation.distributed import ALONE, Ranks
from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.metrics.results import listed
from depth_anything_train.metrics.segmentation import Confusion, confusion_of, measures
from depth_anything_train.models.segmenter import Segmenter
from depth_anything_train.runtime import ProgressBar, UserError


@dataclass
class Counted:
    """What was counted: the confusion matrix over all images, their number, and those left out, by reason."""

    confusion: Confusion
    images: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def measures(self) -> dict[str, float]:
        """`images`, and the measures of `metrics.segmentation`."""
        return {"images": self.images, **measures(self.confusion)}


def count(
    model: Segmenter,
    data: Mapping[str, Records],
    window: SlidingWindow,
    *,
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> Counted:
    """Look at every sample and compare.

    Args:
        model: in eval mode.
        data: samples by the name of their folder.
        window: how an image is looked at.
        ranks: the processes that share the work.
        progress: let the first process show how far it is.

    Returns:
        What all processes counted, on the first one; the others have their part.

    Raises:
        UserError: not one image could be judged.
    """
    origins = [(name, number) for name, records in data.items() for number in range(len(records))]
    part = Counted(torch.zeros(model.config.num_classes, model.config.num_classes, dtype=torch.int64))
    with ProgressBar("segment", len(origins[:: ranks.world]), shown=progress and ranks.first) as bar:

        def count_image(origin: tuple[str, int]) -> None:
            name, number = origin
            try:
                image, truth = read(data[name][number], model.config.num_classes)
                found = window.classes(model, image, truth.shape)
                part.confusion += confusion_of(truth, found, model.config.num_classes)
                part.images += 1
            except BadSample as error:
                part.skipped[error.reason] += 1
            bar.advance()

        ranks.share(origins, count_image)
    parts = ranks.gather(part)
    if not parts:
        return part
    total = Counted(
        torch.stack([one.confusion for one in parts]).sum(0),
        sum(one.images for one in parts),
        sum((one.skipped for one in parts), Counter[str]()),
    )
    if not total.confusion.any():
        raise UserError(
            f"Expected images with classes to judge, but none of {', '.join(data)} could be used "
            f"({listed(total.skipped)})."
        )
    return total


def read(record: Record, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (H, W, 3) and class of every pixel (h, w).

    Raises:
        BadSample: as the decoders, or `unknown_class`.
    """
    image = decode_image(record.image)
    truth = decode_classes(record, image.shape)
    require_known(truth, num_classes, record.key)
    return image, truth
