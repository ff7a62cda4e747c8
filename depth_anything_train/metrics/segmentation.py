"""Measures of semantic segmentation, from one confusion matrix over all images as the benchmarks have them."""

from __future__ import annotations

from torch import Tensor

Confusion = Tensor
"""(K, K) whole numbers: pixels of the class of the row that were taken for the class of the column."""


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
