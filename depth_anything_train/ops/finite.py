"""Predictions that hold NaN or infinity are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import UserError


def check_finite(*predictions: NDArray[np.floating[Any]]) -> None:
    """Refuse NaN and infinity in what a model states.

    Raises:
        UserError: one of the predictions has some.
    """
    if not all(np.isfinite(values).all() for values in predictions):
        raise UserError("Expected a finite prediction, but got NaN or infinity; the model's weights are damaged.")
