"""From a photograph to the class of every pixel, by a window that slides over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from depth_anything_train.models.segmenter import MIN_PATCHES, Segmenter
from depth_anything_train.ops.normalisation import normalize
from depth_anything_train.runtime import UserError
from depth_anything_train.types import Image


@dataclass(frozen=True)
class SlidingWindow:
    """How a segmenter looks at an image larger than it was trained on; overlapping windows are averaged.

    Scores are averaged too over scales and flips, and the class with the highest one is taken at the image's own size.

    Args:
        size: shorter side to which an image is scaled, in pixels; None leaves it.
        crop: side of the window in pixels, a multiple of the patch size.
        stride: pixels from one window to the next, at most `crop`; the last one ends where the image does.
        max_side: the longer side is scaled to at most so many pixels.
        scales: factors on `size`, several of them for multi-scale testing.
        flip: look at the mirrored image too.

    Raises:
        UserError: a number that cannot be.
    """

    size: int | None
    crop: int
    stride: int
    max_side: int = 3584
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        sides = [self.crop, self.max_side, *([] if self.size is None else [self.size])]
        if min(sides) < 1 or not 0 < self.stride <= self.crop or not self.scales or min(self.scales) <= 0:
            raise UserError(
                "Expected a window with sides of at least 1 pixel, a stride of 1 to crop and scales above 0, but got "
                f"size={self.size}, crop={self.crop}, stride={self.stride}, max_side={self.max_side} and "
                f"scales={list(self.scales)}."
            )
        object.__setattr__(self, "scales", tuple(self.scales))  # a config's list is of another type

    def classes(self, model: Segmenter, image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """The class of every pixel, (h, w) of `shape`, of an RGB image (H, W, 3)."""
        return self.scores(model, image, shape).argmax(0).to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def scores(self, model: Segmenter, image: NDArray[np.uint8], shape: tuple[int, int]) -> Tensor:
        """Score of every class at every pixel, (K, h, w) of `shape`: the mean over scales and flips."""
        total = torch.zeros(())
        for scaled in self._scaled(model, image):
            for mirrored in (False, True) if self.flip else (False,):
                scores = self.slide(model, scaled.flip(-1) if mirrored else scaled)
                scores = scores.flip(-1) if mirrored else scores
                total = total.to(scores) + F.interpolate(scores, shape, mode="bilinear", align_corners=False)
        return total[0] / (len(self.scales) * (1 + self.flip))

    def slide(self, model: Segmenter, image: Image) -> Tensor:
        """Mean score of every class over the windows that show a pixel, (1, K, H, W) of an image (1, 3, H, W)."""
        height, width = image.shape[-2:]
        patch = model.config.encoder.patch_size
        below, beside = (max(-(-side // patch), MIN_PATCHES) * patch - side for side in (height, width))
        padded = F.pad(image, (0, beside, 0, below))  # the mean colour is 0
        total = image.new_zeros(1, model.config.num_classes, *padded.shape[-2:])
        count = image.new_zeros(padded.shape[-2:])
        for top in self._starts(padded.shape[-2]):
            for left in self._starts(padded.shape[-1]):
                window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
                total[window] += model.scores(padded[window])
                count[window] += 1
        return (total / count)[..., :height, :width]

    def _starts(self, side: int) -> list[int]:
        """Where the windows begin along a side."""
        last = max(side - self.crop, 0)
        return [min(start, last) for start in range(0, last + self.stride, self.stride)]

    def _scaled(self, model: Segmenter, image: NDArray[np.uint8]) -> Iterator[Image]:
        device = model.pretrained.cls_token.device
        height, width = image.shape[:2]
        for factor in self.scales:
            scale = (self.size or min(height, width)) * factor / min(height, width)
            scale = min(scale, self.max_side / max(height, width))
            sides = max(round(width * scale), 1), max(round(height * scale), 1)
            resized = image if sides == (width, height) else cv2.resize(image, sides, interpolation=cv2.INTER_CUBIC)
            pixels = torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1)[None].to(device)
            yield normalize(pixels).contiguous(memory_format=torch.channels_last)
