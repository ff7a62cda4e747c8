"""A photograph and its prediction as coloured points in space."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.runtime import UserError, import_extra

FORMATS = ("ply", "glb")
DEFAULT_FOV_DEG = 60.0
"""Field of view across the longer side where nothing is known about the camera; phones have 60 to 75."""
NEAR_PERCENTILE = 99.0
"""Of a relative disparity; its distance becomes 1."""
FLOOR = 0.02
"""Share of the near disparity below which a pixel of a relative model counts as sky: 50 times as far as the near."""
MAX_POINTS = 1_000_000
REACH, RISE = 0.0075, 0.03
"""How a point between two surfaces is told: within this share of the image's shorter side disparity rises to one side
and falls to the other, each time by at least this share of its own more than it does just beyond."""

_GLTF_AXES = np.array([1, -1, -1], np.float32)  # y up and the camera looking along -z, as glTF has it
_SRGB = np.arange(256) / 255
_GLTF_COLORS = np.rint(255 * np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4))
"""Intensity for every level of sRGB: glTF's colours are linear; a photograph's would look pale."""


@dataclass(frozen=True)
class PointCloud:
    """Coloured points as the camera sees them: x right, y down, z forward, the camera at the origin.

    `points` float32 (N, 3): metres of a metric model; of a relative one multiples of the distance of what is near.
    `colors` uint8 (N, 3): RGB.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]

    def encode(self, kind: str) -> bytes:
        """The file's content: `ply` (binary, as it is) or `glb` (glTF: y up, looking along -z, linear colours).

        Raises:
            UserError: another kind, or trimesh is not installed.
            BadSample: `no_points`.
        """
        if kind not in FORMATS:
            raise UserError(f"Expected ply or glb as the kind of point cloud, but got {kind}.")
        if not len(self.points):
            raise BadSample("no_points", "Expected points, but every pixel is infinitely far.")
        trimesh = import_extra("trimesh", extra="points")
        points, colors = self.points, self.colors
        if kind == "glb":
            points, colors = points * _GLTF_AXES, _GLTF_COLORS.astype(np.uint8)[colors]
        return bytes(trimesh.PointCloud(points, colors=colors).export(file_type=kind))


def from_prediction(
    image: NDArray[np.uint8],
    prediction: Prediction,
    *,
    fov_deg: float | None = None,
    intrinsics: tuple[float, float, float, float] | None = None,
    focal_px: float | None = None,
    max_points: int | None = MAX_POINTS,
    drop_flying: bool = True,
) -> PointCloud:
    """Put every pixel where the camera saw it.

    A metric model states the distance along the optical axis. A relative one states disparity up to a scale and a shift
    that nobody knows: here the shift is taken to be 0 (disparity 0 is infinitely far, as in training), and the scale
    such that its 99th percentile lies at distance 1; a shift in truth bends planes. Pixels with less than 2 % of that
    disparity are sky and dropped, as is what is not positive and finite.

    Args:
        image: RGB (H, W, 3).
        prediction: (H, W), of the same size.
        fov_deg: field of view across the longer side in degrees.
        intrinsics: (fx, fy, cx, cy) in pixels of the photograph instead; the centre of the first pixel is (0, 0), as in
            OpenCV.
        focal_px: focal length in pixels, such as the photograph itself may state, where neither of them is given; if
            nothing is known, the field of view is 60 degrees.
        max_points: most points; a larger photograph is thinned to every n-th row and column. None takes all.
        drop_flying: leave out the points that hang in the air between a near and a far surface (`flying_pixels`).

    Raises:
        UserError: both fov_deg and intrinsics, numbers no camera has, or a prediction of another size than the image.
    """
    height, width = prediction.values.shape
    if image.shape[:2] != (height, width):
        raise UserError(f"Expected image and prediction of one size, but got {image.shape[:2]} and {height, width}.")
    fx, fy, cx, cy = camera(height, width, fov_deg, intrinsics, focal_px)
    limit = height * width if max_points is None else max(max_points, 1)
    step = next(n for n in itertools.count(1) if math.ceil(height / n) * math.ceil(width / n) <= limit)
    z, keep = _distance(prediction)
    z, keep = z[::step, ::step], keep[::step, ::step]
    if drop_flying:
        keep = keep & ~flying_pixels(prediction.disparity[::step, ::step])
    rows, columns = np.mgrid[:height:step, :width:step].astype(np.float32)
    points = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], axis=-1)
    return PointCloud(points[keep].astype(np.float32), image[::step, ::step][keep])


def _distance(prediction: Prediction) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Distance along the optical axis (H, W), and where it is one; 0 elsewhere."""
    if prediction.kind == "metric":
        keep = np.isfinite(prediction.depth_m) & (prediction.depth_m > 0)
        return np.where(keep, prediction.depth_m, 0), keep
    disparity = prediction.disparity
    near = max(float(np.percentile(disparity, NEAR_PERCENTILE)), 0.0)
    keep = np.isfinite(disparity) & (disparity > FLOOR * near)
    return np.divide(near, disparity, out=np.zeros_like(disparity), where=keep), keep


def flying_pixels(disparity: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels (H, W) between two surfaces: a network draws an edge as a ramp, whose points lie on neither.

    A plane, however steep, has a disparity that is linear in the pixels, so that it loses nothing; nor does a sharp
    step. On a ramp it rises to one side and falls to the other, each time by more than it does just beyond.

    Args:
        disparity: (H, W), inverse depth.
    """
    reach = max(round(REACH * min(disparity.shape)), 1)
    flying = np.zeros(disparity.shape, bool)
    for axis in (0, 1):
        margins = [(2 * reach, 2 * reach) if axis == other else (0, 0) for other in (0, 1)]
        padded = np.pad(disparity, margins, constant_values=np.nan)  # what is beyond the border decides nothing
        steps = np.diff(np.stack([_window(padded, k * reach, disparity.shape, axis) for k in range(5)]), axis=0)
        steeper = np.abs(steps[1:3]) > np.abs(steps[[0, 3]]) + RISE * np.abs(disparity)
        flying |= (steps[1] * steps[2] > 0) & steeper.all(axis=0)
    return flying


def _window(values: NDArray[np.float32], start: int, shape: tuple[int, ...], axis: int) -> NDArray[np.float32]:
    return values[start : start + shape[0], :] if axis == 0 else values[:, start : start + shape[1]]


def camera(
    height: int,
    width: int,
    fov_deg: float | None,
    intrinsics: tuple[float, float, float, float] | None,
    focal_px: float | None = None,
) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) in pixels, from a field of view across the longer side or as given, else from a focal length.

    Raises:
        UserError: both, or numbers no camera has.
    """
    if intrinsics is not None:
        if fov_deg is not None:
            raise UserError("Expected either fov_deg or intrinsics, but got both; leave one out.")
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in intrinsics)
        if len(intrinsics) != 4 or not numbers or min(intrinsics[:2]) <= 0:
            raise UserError(f"Expected intrinsics (fx, fy, cx, cy) with fx, fy above 0, but got {tuple(intrinsics)}.")
        return intrinsics
    if fov_deg is not None or focal_px is None:
        fov_deg = DEFAULT_FOV_DEG if fov_deg is None else fov_deg
        if not 0 < fov_deg < 180:
            raise UserError(f"Expected a field of view between 0 and 180 degrees, but got {fov_deg}.")
        focal_px = max(height, width) / 2 / math.tan(math.radians(fov_deg) / 2)
    return focal_px, focal_px, (width - 1) / 2, (height - 1) / 2


def fov_of(focal_px: float, height: int, width: int) -> float:
    """Field of view across the longer side in degrees, of a focal length in pixels: what `camera` takes back."""
    return math.degrees(2 * math.atan(max(height, width) / 2 / focal_px))
