"""A predicted depth map against the true one: which pixels, which alignment, which range, in which space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_anything_train.metrics.functional import RATIO_METRICS, UNIT_METRICS, Pixels, abs_rel, delta1
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.ops.alignment import least_squares_scale_shift
from depth_anything_train.ops.finite import check_finite
from depth_anything_train.runtime import UserError
from depth_anything_train.types import InputCrop

Alignment = Literal["least_squares_disparity", "median", "none"]
Crop = Literal["none", "eigen_nyu", "eigen_kitti", "garg"]

MIN_PIXELS: dict[Alignment, int] = {"least_squares_disparity": 2, "median": 1, "none": 1}
"""Pixels that an image needs to be judged: as many as the alignment has unknowns, and one at least."""
DISPARITY_FLOOR = 1e-6  # share of the label's largest disparity; an aligned prediction may come out negative


@dataclass(frozen=True)
class DepthProtocol(EvaluationProtocol):
    """How a depth map is judged.

    `alignment` is how the prediction is brought to the label before it is judged:

    - `least_squares_disparity`: scale and shift per image, closed form, in inverse depth (MiDaS; both papers)
    - `median`: one scale per image, so that the medians of inverse depth agree
    - `none`: the prediction is taken as it is, in metres

    `min_depth_m` and `cap_m` bound the depths that count, strictly, and clip the prediction. They are metres and apply
    to labels in metres alone. Labels of an unknown scale (disparity in pixels, unit "unknown") have no metres: there,
    and where `cap_m` is None, the farthest valid pixel of the label itself is the cap, and the measures that carry a
    unit (`rmse`, `sq_rel`) are left out.

    `crop` keeps the pixels of a published window, given the label at its original size. `input_crop` cuts image and
    label before the network sees them: `kb` is the 352 x 1216 window at the bottom centre that metric models of KITTI
    use. `ground_truth` and `mask` say in words which field and which pixels the shards must hold.
    """

    name: str = "relative"
    alignment: Alignment = "least_squares_disparity"
    min_depth_m: float = 1e-3
    cap_m: float | None = None
    crop: Crop = "none"
    input_crop: InputCrop = "none"
    ground_truth: str = ""
    mask: str = ""

    pooled = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choices(alignment=Alignment, crop=Crop, input_crop=InputCrop)
        if not 0 < self.min_depth_m < (self.cap_m or float("inf")):
            raise UserError(f"Expected 0 < min_depth_m < cap_m, but got {self.min_depth_m} and {self.cap_m}.")
        if self.family == "moge" and self.cap_m is not None:
            raise UserError(
                f"Expected cap_m=null in the family moge, whose floor is the label's own, but got {self.cap_m}."
            )

    def describe(self, size: Any = None) -> str:
        """One line for captions: everything that decides the number; `size` was asked for instead of the protocol's."""
        alignment = {
            "least_squares_disparity": "scale and shift per image by least squares in inverse depth",
            "median": "one scale per image by medians",
            "none": "no alignment",
        }[self.alignment]
        cap = "the label's own farthest pixel" if self.cap_m is None else f"{self.cap_m:g} m"
        data = "; ".join(
            f"{name} {text}"
            for name, text in (("split", self.split), ("labels", self.ground_truth), ("mask", self.mask))
            if text
        )
        return (
            f"protocol {self.name}: {data + '; ' if data else ''}{alignment}; "
            f"depths from {self.min_depth_m:g} m to {cap}; "
            f"crop {self.crop}{'; image and label cut to 352 x 1216 (kb)' if self.input_crop == 'kb' else ''}; "
            f"{self.seen(size)}; "
            "sky and unlabelled pixels not judged; at the label's resolution; mean over pixels, then over images"
        )


def crop_window(crop: Crop, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a published crop at a label of `height` x `width`.

    `eigen_nyu` is published in pixels of 480 x 640 and scales with the label; the others are shares of the sides,
    truncated as the published code does.
    """
    if crop == "none":
        return slice(0, height), slice(0, width)
    if crop == "eigen_nyu":
        return slice(45 * height // 480, 471 * height // 480), slice(41 * width // 640, 601 * width // 640)
    top, bottom = {"eigen_kitti": (0.3324324, 0.91351351), "garg": (0.40810811, 0.99189189)}[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(0.03594771 * width), int(0.96405229 * width))


def _fit(predicted: Pixels, truth: Pixels, alignment: Alignment) -> tuple[float, float]:
    """Scale and shift that bring predicted disparity (P,) to the true one (P,); (1, 0) where nothing is aligned."""
    if alignment == "none":
        return 1.0, 0.0
    if alignment == "median":
        middle = float(np.median(predicted.numpy()))  # torch takes the lower of two middle values
        return (float(np.median(truth.numpy())) / middle if middle > 0 else 1.0), 0.0
    everywhere = torch.ones_like(predicted[None], dtype=torch.bool)
    scale, shift = least_squares_scale_shift(predicted[None], truth[None], everywhere)
    return scale.item(), shift.item()


@dataclass(frozen=True)
class Placement:
    """How a prediction comes to the scale and the range of its label: disparity by scale and shift, depth clipped."""

    scale: float
    shift: float
    nearest: float
    farthest: float

    def disparity(self, predicted: Tensor) -> Tensor:
        """On the scale of the label; may come out negative."""
        return self.scale * predicted + self.shift

    def depth(self, predicted: Tensor) -> Tensor:
        """Its inverse, from `nearest` to `farthest`."""
        # Clipped at the far end before inverting, as MiDaS does: the inverse stays finite and positive.
        return (1.0 / self.disparity(predicted).clamp(min=1.0 / self.farthest)).clamp(min=self.nearest)


def place(predicted: Pixels, truth: Pixels, protocol: DepthProtocol, unit: str = "m") -> Placement:
    """How the protocol places predicted disparity (P,) beside the true one (P,), float64, at the judged pixels."""
    metres = unit == "m"
    return Placement(
        *_fit(predicted, truth, protocol.alignment),
        nearest=protocol.min_depth_m if metres else 0.0,
        farthest=protocol.cap_m if metres and protocol.cap_m is not None else 1.0 / truth.min().item(),
    )


def evaluate_image(
    disparity: NDArray[np.floating],
    label: NDArray[np.floating],
    valid: NDArray[np.bool_],
    protocol: DepthProtocol,
    *,
    unit: str = "m",
) -> dict[str, float] | None:
    """Judge one prediction in both spaces.

    Args:
        disparity: predicted inverse depth (H, W) at the label's size; up to scale and shift, or in 1/m where the
            protocol aligns nothing.
        label: true inverse depth (H, W); 1/m for unit "m". Exactly 0 is sky, which has no depth to compare with.
        valid: (H, W), True where the label may be used; elsewhere label and prediction may hold anything.
        protocol: pixels, alignment and range.
        unit: unit of the label: "m", "px" or "unknown".

    Returns:
        `abs_rel_disparity` and `delta1_disparity` compare inverse depths (what the authors say they did), every other
        measure compares depths; `pixels` is how many were judged. None where fewer pixels are left to judge than the
        alignment has unknowns.

    Raises:
        UserError: sizes differ, the prediction is not finite, or metres are asked of a label that has none.
    """
    if not disparity.shape == label.shape == valid.shape:
        sizes = f"{disparity.shape}, {label.shape} and {valid.shape}"
        raise UserError(f"Expected prediction, label and mask of one size, but got {sizes}.")
    if protocol.alignment == "none" and unit != "m":
        raise UserError(f"Protocol {protocol.name} judges metres, but the label has unit {unit!r}; choose another.")
    judged = judged_pixels(label, valid, protocol, unit)
    if int(judged.sum()) < MIN_PIXELS[protocol.alignment]:
        return None
    check_finite(disparity[judged])
    predicted = torch.from_numpy(disparity[judged].astype(np.float64))
    truth = torch.from_numpy(label[judged].astype(np.float64))
    placement = place(predicted, truth, protocol, unit)
    floored = placement.disparity(predicted).clamp(min=DISPARITY_FLOOR * truth.max().item())
    in_disparity = {"abs_rel_disparity": abs_rel(floored, truth), "delta1_disparity": delta1(floored, truth)}
    depth, true_depth = placement.depth(predicted), 1.0 / truth
    measures = RATIO_METRICS | UNIT_METRICS if unit == "m" else RATIO_METRICS
    in_depth = {name: measure(depth, true_depth) for name, measure in measures.items()}
    return {"pixels": len(truth)} | in_disparity | in_depth


def judged_pixels(
    label: NDArray[np.floating], valid: NDArray[np.bool_], protocol: DepthProtocol, unit: str = "m"
) -> NDArray[np.bool_]:
    """Labelled pixels (H, W) that are no sky, inside the crop and, in metres, strictly inside the range."""
    judged = np.zeros(valid.shape, bool)
    window = crop_window(protocol.crop, *valid.shape)
    judged[window] = valid[window]
    with np.errstate(invalid="ignore"):
        judged &= np.isfinite(label) & (label > 0)
        if unit == "m":
            judged &= label < 1.0 / protocol.min_depth_m
            if protocol.cap_m is not None:
                judged &= label > 1.0 / protocol.cap_m
    return judged
