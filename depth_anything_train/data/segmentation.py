"""Segmented images for fine-tuning to semantic segmentation: views at random scales, and colours that are distorted.

They come from shards like all others, so that order, cache, resume and remote folders are the same: a map of classes is
one more label beside an image, and only the way a view is cut differs from depth. The recipe is that of the paper's
published code (V1 section 6, semseg), which is MMSegmentation's for Mask2Former.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import NO_CLASS, SEGMENTED, BadSample
from depth_anything_train.data.sources import Sample, SemanticSource
from depth_anything_train.data.transforms import Geometry, check_aspect, each_array, resize
from depth_anything_train.runtime import UserError

MEAN_COLOUR = (124, 116, 104)
"""0 in the network, after normalisation: the colour of padding."""

TRIES = 10
"""Windows that are looked at for one in which no class prevails: as in the published code."""


class SegmentedSource(SemanticSource):
    """Images with the class of every pixel: `image`, `classes` (h, w) uint8 (255 none), `key`.

    Args:
        folders, skip: as those of any source.
        num_classes: number of classes of the model, equal to that of the folders.

    Raises:
        UserError: as any source, or a folder has another number of classes.
    """

    kind = SEGMENTED

    def __init__(self, folders: Sequence[str | Path], *, num_classes: int, skip: Collection[str] = ()) -> None:
        super().__init__(folders, skip=skip)
        self.num_classes = num_classes
        for folder in self.folders:
            check_classes(folder.path, folder.info.get("classes"), num_classes)

    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: as the decoders, or `unknown_class`.
        """
        sample = super().load(index)
        require_known(sample["classes"], self.num_classes, sample["key"])
        return sample


def check_classes(path: object, names: object, num_classes: int) -> None:
    """Compare the classes of a folder with those of a model.

    Raises:
        UserError: their number differs.
    """
    if not isinstance(names, list) or len(names) != num_classes:
        found = len(names) if isinstance(names, list) else "no"
        raise UserError(
            f"Expected segmented shards of {num_classes} classes in {path}, but its dataset.json names {found}; "
            "use the experiment that belongs to the data set, or set task.num_classes."
        )


def require_known(classes: NDArray[np.uint8], num_classes: int, key: str) -> None:
    """Compare the classes that a map shows with those of a model.

    Raises:
        BadSample: `unknown_class`.
    """
    known = classes[classes != NO_CLASS]
    if known.size and known.max() >= num_classes:
        raise BadSample("unknown_class", f"{key} shows class {known.max()} of {num_classes}.")


class ScaledCrops(Geometry):
    """A view is a window of the whole image at a random scale; where the image ends the view is grey, without class.

    Args:
        size: side of the square window in pixels, or its (height, width).
        flip: probability of a horizontal flip.
        rotate_deg: must be 0.
        scales: the shorter side becomes one of these times `size`, all of them equally likely.
        max_side: longest side of a scaled image in pixels, whatever the scale.
        max_share: a window in which one class has a larger share of the labelled pixels is drawn again, `TRIES` times.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        flip: float = 0.5,
        rotate_deg: float = 0.0,
        scales: Sequence[float],
        max_side: int,
        max_share: float,
    ) -> None:
        super().__init__(size, flip=flip)
        if rotate_deg:
            raise UserError(f"Expected data.rotate_deg=0 for maps of classes, but got {rotate_deg}.")
        if not scales or min(scales) <= 0 or max_side < max(self.shape) or not 0 < max_share <= 1:
            raise UserError(
                "Expected data.geometry to have scales above 0, max_side of at least the size of a view and max_share "
                f"in 0 to 1, but got {list(scales)}, {max_side} and {max_share}."
            )
        self.scales, self.max_side, self.max_share = list(scales), max_side, max_share

    def fit(self, sample: Sample) -> Sample:
        """All views are cut from the image as it was decoded, which is resampled once.

        Raises:
            BadSample: `extreme_aspect`.
        """
        height, width = check_aspect(sample)
        return each_array(sample, lambda _, pixels: resize(pixels, height, width, cubic=False))

    def crop(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Cut one random view out; the arrays are new."""
        height, width = sample["image"].shape[:2]
        wanted = int(min(self.shape) * self.scales[rng.integers(len(self.scales))])
        scale = min(wanted / min(height, width), self.max_side / max(height, width))
        height, width = (max(round(side * scale), 1) for side in (height, width))
        scaled = each_array(sample, lambda name, pixels: resize(pixels, height, width, cubic=name == "image"))
        window, flipped = self._window(scaled["classes"], rng), rng.random() < self.flip

        def view(name: str, pixels: NDArray) -> NDArray:
            cut = cv2.flip(pixels[window], 1) if flipped else pixels[window]
            below, beside = (side - have for side, have in zip(self.shape, cut.shape, strict=False))
            fill = MEAN_COLOUR if name == "image" else NO_CLASS
            return cv2.copyMakeBorder(cut, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=fill)

        return each_array(scaled, view)

    def _window(self, classes: NDArray[np.uint8], rng: np.random.Generator) -> tuple[slice, slice]:
        """A random window in which no class prevails, or the last one that was drawn."""
        free = [max(have - side, 0) + 1 for have, side in zip(classes.shape, self.shape, strict=True)]
        for _ in range(TRIES):
            top, left = (int(rng.integers(count)) for count in free)
            window = slice(top, top + self.shape[0]), slice(left, left + self.shape[1])
            counts = np.bincount(classes[window].ravel(), minlength=NO_CLASS + 1)[:NO_CLASS]
            if 0 < counts.max() <= self.max_share * counts.sum():
                break
        return window
