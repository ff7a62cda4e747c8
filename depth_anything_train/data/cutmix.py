"""CutMix on a batch of unlabelled images: a rectangle of each is replaced by its partner's, label and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from depth_anything_train.runtime import UserError, keyed_seed
from depth_anything_train.types import Disparity, ImageBytes, Valid


class Box(NamedTuple):
    """A rectangle of pixels, end exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class CutMix:
    """Draws the rectangles: section 3.2 gives the probability, the author's UniMatch the rest.

    Args:
        probability: share of the images that get one.
        area: share of the image it covers, drawn from this range.
        aspect: height over width, drawn from this range.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        fits = 0 < self.area[0] <= self.area[1] < 1 and 0 < self.aspect[0] <= 1 <= self.aspect[1]
        if not (0 <= self.probability <= 1 and fits):
            raise UserError(
                "Expected a CutMix probability in 0 to 1, an area between 0 and 1 and an aspect range around 1, but "
                f"got {self}; fix data.cutmix."
            )

    def boxes(self, size: int, seed: int, step: int, positions: Sequence[int]) -> list[Box | None]:
        """One box, or none, for each position of the global batch: the same whichever rank or worker asks.

        Args:
            size: side of the images in pixels.
            seed: the run's seed.
            step: the optimiser step.
            positions: places in the global batch.
        """
        keys = (keyed_seed(seed, "cutmix", step, position) for position in positions)
        return [self._box(size, np.random.default_rng(key)) for key in keys]

    def _box(self, size: int, rng: np.random.Generator) -> Box | None:
        if rng.random() >= self.probability:
            return None
        area = rng.uniform(*self.area) * size**2
        while True:
            aspect = rng.uniform(*self.aspect)
            height, width = max(1, int(np.sqrt(area * aspect))), max(1, int(np.sqrt(area / aspect)))
            top, left = (int(start) for start in rng.integers(size, size=2))
            if top + height <= size and left + width <= size:
                return Box(top, left, top + height, left + width)


def cutmix(image: ImageBytes, disparity: Disparity, valid: Valid, boxes: Sequence[Box | None]) -> Valid:
    """Paste into image 2k the box of image 2k + 1, and the other way round, in place; equation 5 of the paper.

    Neighbours are partners, so that a batch split over ranks in even shares is mixed as the whole batch would be.
    Every box is cut from the unmixed images.

    Args:
        image: (B, 3, H, W), B even.
        disparity: their pseudo labels, mixed alike.
        valid: where those may be used, mixed alike.
        boxes: one for each image; None leaves it whole.

    Returns:
        `region`: True where an image shows itself.
    """
    assert len(boxes) == len(image) and len(image) % 2 == 0
    region = torch.ones_like(valid)
    for first in range(0, len(boxes), 2):
        pasted = []
        for number, box in enumerate(boxes[first : first + 2], start=first):
            if box is not None:
                inside = (..., slice(box.top, box.bottom), slice(box.left, box.right))
                region[number][inside] = False
                pasted += [
                    (mixed[number][inside], mixed[number ^ 1][inside].clone()) for mixed in (image, disparity, valid)
                ]
        for place, piece in pasted:
            place.copy_(piece)
    return region
