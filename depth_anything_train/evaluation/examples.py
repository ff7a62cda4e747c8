"""One labelled image as a row of pictures: the image, its label, and of every model the prediction and the error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from depth_anything_train.data.test_sets import TestSample
from depth_anything_train.inference.prediction import Prediction, Predictor
from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image, fit, judged_pixels
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.pages.pictures import Picture, PictureRow, encode, shrink

ERROR_COLORMAP = "magma"
WORST_ERROR = 0.5  # relative depth error that gets the last colour


def placement(protocol: DepthProtocol) -> str:
    """How the predictions of `example_row` came to the scale of the label, for a legend."""
    if protocol.alignment == "none":
        return "predictions as they are, nothing aligned"
    return "predictions on the scale of the label after alignment"


def example_row(
    sample: TestSample, models: Mapping[str, Predictor], protocol: DepthProtocol, *, size: int | None = None
) -> PictureRow:
    """Image, ground truth, every model's prediction, aligned as the protocol says, and every model's error.

    Args:
        sample: the image with its label.
        models: predictors by name.
        protocol: alignment and range.
        size: shorter side for the network; its own choice when None.
    """
    judged = judged_pixels(sample.disparity, sample.valid, protocol, sample.unit)
    known = sample.disparity[sample.valid]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
    truth = colorize(*shrink(sample.disparity, sample.valid), limits=(low, high))
    about = f"of {sample.group}/{sample.key}"
    pictures = [
        Picture("image", "", f"Photograph {about}", encode(sample.image)),
        Picture("ground truth", "", f"True disparity {about}", encode(truth)),
    ]
    errors = []
    for name, model in models.items():
        prediction = Prediction(model.forward([sample.image], size, [sample.focal_px])[0], model.kind)
        raw = prediction.resized(*sample.disparity.shape).disparity
        aligned = _aligned(raw, sample, judged, protocol)
        measures = evaluate_image(raw, sample.disparity, sample.valid, protocol, unit=sample.unit)
        figure = f"AbsRel {measures['abs_rel']:.3f}" if measures else "not judged"
        shown = encode(colorize(aligned, limits=(low, high)))
        pictures.append(Picture(name, figure, f"Disparity {about} predicted by {name}, {figure}", shown))
        error_map = shrink(_error(aligned, sample, judged), judged)
        error = colorize(*error_map, colormap=ERROR_COLORMAP, limits=(0, WORST_ERROR))
        errors.append(Picture(f"{name} error", "", f"Relative depth error {about} by {name}, {figure}", encode(error)))
    return PictureRow(sample.group, sample.key, pictures + errors)


def _aligned(
    raw: NDArray[np.float32], sample: TestSample, judged: NDArray[np.bool_], protocol: DepthProtocol
) -> NDArray[np.float64]:
    """The whole prediction (H, W) on the scale of the label."""
    if not judged.any():
        return raw.astype(np.float64)
    predicted, truth = (torch.from_numpy(values[judged].astype(np.float64)) for values in (raw, sample.disparity))
    scale, shift = fit(predicted, truth, protocol.alignment)
    return scale * raw.astype(np.float64) + shift


def _error(aligned: NDArray[np.float64], sample: TestSample, judged: NDArray[np.bool_]) -> NDArray[np.float64]:
    """|predicted depth - depth| / depth (H, W) where judged, 0 elsewhere."""
    error = np.zeros(judged.shape)
    truth = sample.disparity[judged].astype(np.float64)
    error[judged] = np.abs(truth / np.maximum(aligned[judged], 1e-6 * truth) - 1)
    return error
