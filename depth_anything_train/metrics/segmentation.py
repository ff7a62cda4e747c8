"""Measures of semantic segmentation, from one confusion matrix over all images as the benchmarks have them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Confusion = Tensor
"""(K, K) whole numbers: pixels of the class of the row that were taken for the class of the column."""


def confusion_of(truth: NDArray[np.uint8], found: NDArray[np.uint8], num_classes: int) -> Confusion:
    """The confusion matrix of one image; pixels whose label is none of the classes do not count."""
    labelled = truth < num_classes
    pairs = num_classes * truth[labelled].astype(np.int64) + found[labelled]
    return torch.from_numpy(np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes))


def class_ious(confusion: Confusion) -> Tensor:
    """Intersection over union of each class, (K,) in 0 to 1; NaN where neither labels nor predictions show it."""
    right = confusion.diagonal().double()
    return right / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())


def measures(confusion: Confusion) -> dict[str, float]:
    """`miou`, the mean over the classes that are shown, and `accuracy`, the share of right pixels; both 0 to 1."""
    right = confusion.diagonal().sum().double()
    return {"miou": class_ious(confusion).nanmean().item(), "accuracy": (right / confusion.sum()).item()}


def best_constant_miou(confusion: Confusion) -> float:
    """The mIoU of always predicting the most common class of the same labels: what any segmenter has to beat."""
    pixels = confusion.sum(1).double()
    return (pixels.max() / pixels.sum() / (pixels > 0).sum()).item()
