"""Output files of a prediction: pictures to look at, numbers to compute with, a map for ControlNet, points."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.files import require_short_names, write_bytes
from depth_anything_train.inference.png16 import SMALLEST_RANGE, describe_16bit, to_16bit, with_texts
from depth_anything_train.inference.pointcloud import FORMATS, camera, from_prediction
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.inference.sources import SUFFIXES
from depth_anything_train.ops.colormaps import check_colormap, colorize
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError

DEFAULT_OUTPUTS = ("color", "16bit", "npy")
VIDEO_OUTPUTS = ("color", "control", "side_by_side", "npy")
"""What can be written for a video: one mp4 of each kind of picture, and one array of all values."""
DEFAULT_VIDEO_OUTPUTS = ("color",)

Limits = tuple[float, float]
"""Disparity of the first and the last colour."""


class PictureLimits(NamedTuple):
    """Of the pictures of a frame: of the colours, and of the control map from black to white."""

    color: Limits
    control: Limits


@dataclass(frozen=True)
class Outputs:
    """The choice of what is written for a photograph, and how it looks; checked when it is made.

    Args:
        names: some of `SUFFIXES`.
        colormap: matplotlib's name of the colour map of the colour picture and the side by side; near is its upper end.
        percentile: percentage of pixels at either end that the control map clips, for more contrast between them.
        pointcloud: `ply` or `glb` for a point cloud as well.
        fov_deg: field of view across the photograph's longer side in degrees, for the point cloud and for metres of a
            model with a canonical camera.
        intrinsics: (fx, fy, cx, cy) in pixels of the photograph instead.
        drop_flying: leave points out of the point cloud that hang between two surfaces.

    Raises:
        UserError: a name, colour map, format or number that cannot be.
    """

    names: tuple[str, ...] = DEFAULT_OUTPUTS
    colormap: str = "Spectral_r"
    percentile: float = 0.0
    pointcloud: str | None = None
    fov_deg: float | None = None
    intrinsics: tuple[float, float, float, float] | None = None
    drop_flying: bool = True

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in SUFFIXES]:
            raise UserError(f"Expected outputs out of {', '.join(SUFFIXES)}, but got {', '.join(map(str, unknown))}.")
        if len(set(self.names)) < len(self.names):
            raise UserError(f"Expected every output once, but got {', '.join(self.names)}.")
        if self.pointcloud not in (None, *FORMATS):
            raise UserError(f"Expected ply or glb as pointcloud, but got {self.pointcloud}.")
        if not self.names and self.pointcloud is None:
            raise UserError(f"Expected something to write; choose outputs out of {', '.join(SUFFIXES)}.")
        if not 0 <= self.percentile < 50:
            raise UserError(f"Expected a percentile of at least 0 and below 50, but got {self.percentile}.")
        check_colormap(self.colormap)
        camera(1, 1, self.fov_deg, self.intrinsics)

    def focal_px(self, height: int, width: int) -> float | None:
        """Focal length in pixels of a photograph of that size, if the user stated the camera."""
        if self.fov_deg is None and self.intrinsics is None:
            return None
        fx, fy, *_ = camera(height, width, self.fov_deg, self.intrinsics)
        return math.sqrt(fx * fy)

    def exist(self, target: Path) -> bool:
        """Whether all that is chosen has been written for a target; a file that has its name is whole."""
        return all(map(os.path.exists, self.paths(target)))

    def paths(self, target: Path) -> list[Path]:
        """The files that are written for a target."""
        suffixes = [SUFFIXES[name] for name in self.names] + ([f".{self.pointcloud}"] if self.pointcloud else [])
        return [target.with_name(target.name + suffix) for suffix in suffixes]

    def write(
        self, target: str | Path, image: NDArray[np.uint8], prediction: Prediction, focal_px: float | None = None
    ) -> list[Path]:
        """Write TARGET_color.png, TARGET.npy and so on, each file whole or not at all; returns their paths.

        Args:
            target: path without extension; its folder is made.
            image: the photograph, RGB (H, W, 3).
            prediction: (H, W).
            focal_px: focal length in pixels, for the point cloud if neither `fov_deg` nor `intrinsics` was chosen.

        Raises:
            UserError: there is no point for the point cloud, the prediction has another size than the image, or a name
                is too long; nothing is written then.
        """
        if prediction.values.shape != image.shape[:2]:
            raise UserError(
                f"Expected a prediction of the photograph's size, but they are {prediction.values.shape} and "
                f"{image.shape[:2]}; bring it there with .resized(height, width)."
            )
        target = Path(target)
        require_short_names(self.paths(target))
        encoded = list(self._encoded(image, prediction, focal_px))  # all of them, or none is written
        paths = [target.with_name(target.name + suffix) for suffix, _ in encoded]
        for path, (_, content) in zip(paths, encoded, strict=True):
            write_bytes(path, content)
        return paths

    def pictures(
        self, image: NDArray[np.uint8], prediction: Prediction, limits: PictureLimits | None = None
    ) -> dict[str, NDArray[np.uint8]]:
        """Those of the outputs that are 8-bit pictures, RGB uint8, by name; `limits` hold them in a video."""
        pictures = {}
        of_colors, of_control = limits or (None, None)
        if {"color", "side_by_side"} & set(self.names):
            pictures["color"] = color_picture(prediction, self.colormap, of_colors)
        if "side_by_side" in self.names:
            pictures["side_by_side"] = side_by_side(image, pictures["color"])
        if "control" in self.names:
            pictures["control"] = control_map(prediction, self.percentile, of_control)
        return {name: pictures[name] for name in self.names if name in pictures}

    def _encoded(
        self, image: NDArray[np.uint8], prediction: Prediction, focal_px: float | None
    ) -> Iterator[tuple[str, bytes]]:
        for name, picture in self.pictures(image, prediction).items():
            yield SUFFIXES[name], encode_png(picture)
        if "16bit" in self.names:
            yield SUFFIXES["16bit"], with_texts(encode_png(to_16bit(prediction)), describe_16bit(prediction))
        if "npy" in self.names:
            yield SUFFIXES["npy"], encode_npy(prediction.values)
        if self.pointcloud is not None:
            cloud = from_prediction(
                image,
                prediction,
                fov_deg=self.fov_deg,
                intrinsics=self.intrinsics,
                focal_px=focal_px,
                drop_flying=self.drop_flying,
            )
            yield f".{self.pointcloud}", cloud.encode(self.pointcloud)


def color_picture(
    prediction: Prediction, colormap: str = "Spectral_r", limits: Limits | None = None
) -> NDArray[np.uint8]:
    """Disparity in colours, RGB uint8 (H, W, 3); near is the upper end of the colour map.

    Args:
        prediction: (H, W).
        colormap: any name matplotlib knows.
        limits: disparity of the first and the last colour; by default the picture's 1st and 99th percentile.

    Raises:
        UserError: matplotlib knows no such colour map.
    """
    return colorize(prediction.disparity, colormap=colormap, limits=limits)


def control_map(prediction: Prediction, percentile: float = 0.0, limits: Limits | None = None) -> NDArray[np.uint8]:
    """The depth map that ControlNet takes: disparity from black to white, near = white, uint8 (H, W, 3), grey.

    Args:
        prediction: (H, W).
        percentile: percentage of pixels at either end that become black or white; 0 stretches from minimum to maximum.
        limits: disparity that becomes black and white; by default the picture's own percentiles.
    """
    disparity = prediction.disparity
    if limits is None:
        low, high = np.percentile(disparity, (percentile, 100 - percentile))
        limits = (float(low), float(high))
    levels = np.rint((disparity - limits[0]) * (255 / max(limits[1] - limits[0], SMALLEST_RANGE))).clip(0, 255)
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def side_by_side(image: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photograph on the left and a picture of the same size on the right, RGB uint8 (H, 2 W, 3)."""
    return np.concatenate((image, picture), axis=1)


def encode_npy(values: NDArray[np.generic]) -> bytes:
    """The array as a .npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()
