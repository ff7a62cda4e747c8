"""One labelled image as a row of pictures: the image, its label, and of every model the prediction and the error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from depth_anything_train.data.test_sets import TestSample
from depth_anything_train.inference.prediction import Prediction, Predictor
from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image, judged_pixels, place
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
        disparity = prediction.resized(*sample.shape).disparity
        measures = evaluate_image(disparity, sample.disparity, sample.valid, protocol, unit=sample.unit)
        figure = f"AbsRel {measures['abs_rel']:.3f}" if measures else "not judged"
        aligned, errors_here = placed(disparity, sample, judged, protocol)
        shown = encode(colorize(aligned, limits=(low, high)))
        pictures.append(Picture(name, figure, f"Disparity {about} predicted by {name}, {figure}", shown))
        error = colorize(*shrink(errors_here, judged), colormap=ERROR_COLORMAP, limits=(0, WORST_ERROR))
        errors.append(Picture(f"{name} error", "", f"Relative depth error {about} by {name}, {figure}", encode(error)))
    return PictureRow(sample.group, sample.key, pictures + errors)


def placed(
    disparity: NDArray[np.float32], sample: TestSample, judged: NDArray[np.bool_], protocol: DepthProtocol
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A prediction (H, W) on the scale of its label, and its error where it is judged, 0 elsewhere.

    The error is |depth - true depth| / true depth, whose mean over the judged pixels is AbsRel.
    """
    whole, error = torch.from_numpy(disparity.astype(np.float64)), np.zeros(judged.shape)
    if not judged.any():
        return whole.numpy(), error
    predicted, truth = whole[torch.from_numpy(judged)], torch.from_numpy(sample.disparity[judged].astype(np.float64))
    placement = place(predicted, truth, protocol, sample.unit)
    error[judged] = (placement.depth(predicted) * truth - 1).abs().numpy()
    return placement.disparity(whole).numpy(), error
