"""A predictor that looks twice: at the image and at its mirror image, as the metric papers evaluate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.inference.prediction import ImageLike, Kind, Prediction, Predictor, load_image
from depth_anything_train.inference.preprocess import resize_map


class FlipAverage:
    """Averages what a predictor states about an image and about its mirror image, turned back.

    Disparity of a relative model, metres of a metric one.

    Args:
        model: any predictor.
    """

    def __init__(self, model: Predictor) -> None:
        self.model = model

    @property
    def kind(self) -> Kind:
        """That of the predictor."""
        return self.model.kind

    @property
    def hash(self) -> str:
        """That of the predictor: the weights are the same."""
        return self.model.hash

    def disparity(self, images: list[NDArray[np.uint8]], size: int | None = None) -> list[NDArray[np.float32]]:
        """Inverse depth (h, w) for RGB images (H, W, 3) of one common size, at the predictor's own resolution."""
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        pairs = zip(self.model.disparity(images, size), self.model.disparity(mirrored, size), strict=True)
        return [self._average(plain, mirror[:, ::-1]) for plain, mirror in pairs]

    def _average(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.kind == "metric":
            return np.reciprocal((np.reciprocal(one) + np.reciprocal(other)) * np.float32(0.5))
        return (one + other) * np.float32(0.5)

    def predict(self, image: ImageLike, size: int | None = None) -> Prediction:
        """One photograph at its own size."""
        pixels = load_image(image)
        values = resize_map(self.disparity([pixels], size)[0], *pixels.shape[:2])
        return Prediction(values if self.kind == "relative" else np.reciprocal(values), self.kind)
