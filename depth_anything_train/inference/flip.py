"""A predictor that looks twice: at the image and at its mirror image, as the metric papers evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.inference.prediction import Focals, Kind, Predictor


class FlipAverage:
    """Averages what a predictor states about an image and about its mirror image, mirrored back.

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
    def encoder_name(self) -> str | None:
        """That of the predictor."""
        return self.model.encoder_name

    @property
    def setup(self) -> Mapping[str, Any]:
        """That of the predictor."""
        return self.model.setup

    @property
    def hash(self) -> str:
        """That of the predictor: the weights are the same."""
        return self.model.hash

    def forward(
        self, images: list[NDArray[np.uint8]], size: int | None = None, focals_px: Focals = None
    ) -> list[NDArray[np.float32]]:
        """The average (h, w) for RGB images (H, W, 3) of one common size, at the predictor's own resolution."""
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        plain, mirror = (self.model.forward(seen, size, focals_px) for seen in (images, mirrored))
        return [(one + other[:, ::-1]) * np.float32(0.5) for one, other in zip(plain, mirror, strict=True)]
