"""Rows of small pictures: image, truth, predictions and errors; image and pseudo label."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.data.test_sets import Records, TestSample, group_of, no_such_field, open_data, read_sample
from depth_anything_train.inference.prediction import Prediction, Predictor
from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image, fit, judged_pixels
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.runtime import UserError

LONGER_SIDE = 320  # pixels of a picture on the page
JPEG_QUALITY = 88
ERROR_COLORMAP = "magma"
WORST_ERROR = 0.5  # relative depth error that gets the last colour


@dataclass(frozen=True)
class Picture:
    """One picture on the page: what stands above and below it, and the data itself as a data: URI."""

    title: str
    caption: str
    alt: str
    data: str


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one image side by side."""

    group: str
    key: str
    pictures: list[Picture]


def example_rows(
    data: Any,
    models: Mapping[str, Predictor],
    protocol: DepthProtocol,
    *,
    split_by: str | None,
    per_group: int,
    order: Sequence[str] = (),
) -> list[PictureRow]:
    """Image, ground truth, every model's prediction and every model's error, for a few images per test set.

    Args:
        data: labelled folders as `evaluate` takes them.
        models: predictors by name.
        protocol: alignment and range.
        split_by: field of the samples' json that names the test set.
        per_group: images per test set, spread evenly by position.
        order: names of test sets that come first, in this order.
    """
    folders = open_data(data)
    members = _members(folders, split_by)
    ranks = {name: position for position, name in enumerate(order)}
    rows = []
    for group in sorted(members, key=lambda name: (ranks.get(name, len(ranks)), name)):
        count = min(per_group, len(members[group]))
        for k in range(count):
            name, index = members[group][len(members[group]) * k // count]
            with contextlib.suppress(BadSample):  # `evaluate` counts them
                rows.append(example_row(read_sample(folders[name][index], group), models, protocol))
    return rows


def _members(folders: Mapping[str, Records], split_by: str | None) -> dict[str, list[tuple[str, int]]]:
    """Where the samples of every test set lie: (folder, index)."""
    if split_by is None:  # a folder is a set, and nothing has to be read
        return {name: [(name, index) for index in range(len(folder))] for name, folder in folders.items()}
    members: dict[str, list[tuple[str, int]]] = {}
    for name, folder in folders.items():
        for index in range(len(folder)):
            with contextlib.suppress(BadSample):
                members.setdefault(group_of(folder[index], name, split_by), []).append((name, index))
    if not members:
        raise UserError(no_such_field(folders, split_by))
    return members


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


def pseudo_label_rows(folder: str, count: int) -> list[PictureRow]:
    """Image and pseudo label for `count` samples at even distances; samples that cannot be used are passed over.

    Raises:
        UserError: the folder holds no pseudo labels, or they are not finished.
    """
    source = PseudoLabelSource([folder])
    rows = []
    for k in range(min(count, len(source))):
        with contextlib.suppress(BadSample):
            rows.append(_pseudo_label(source.load(len(source) * k // count)))
    return rows


def _pseudo_label(sample: Mapping[str, Any]) -> PictureRow:
    label = colorize(sample["disparity"], sample["valid"])
    pictures = [
        Picture("image", "", f"Unlabelled photograph {sample['key']}", encode(sample["image"])),
        Picture("pseudo label", "", f"Disparity of {sample['key']} as the teacher labelled it", encode(label)),
    ]
    return PictureRow("", sample["key"], pictures)


def shrink(values: NDArray[np.floating], valid: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A map (H, W) at the size of the page; each pixel is the mean of the valid ones under it: sparse ones show."""
    height, width = valid.shape
    scale = min(LONGER_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    known = np.where(valid, values, 0).astype(np.float32)
    total, weight = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (known, valid.astype(np.float32)))
    return np.divide(total, weight, out=np.zeros(weight.shape, np.float32), where=weight > 0), weight > 0


def encode(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) -> data: URI of a JPEG no larger than the page needs."""
    height, width = picture.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
