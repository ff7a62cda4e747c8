"""A predicted photograph as the page shows it: pictures, a caption, files to download, points."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.files import write_bytes
from depth_anything_train.inference.exif import stated_focal
from depth_anything_train.inference.outputs import Outputs, color_picture
from depth_anything_train.inference.pointcloud import PointCloud, fov_of, from_prediction
from depth_anything_train.inference.prediction import PhotoPredictor, Prediction, load_image
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.ops.png import encode_png

SHOWN_SIDE = 1600
"""Pixels of the longer side on the screen; the downloads have all."""
VIEWED_POINTS, VIEWED_MEDIANS = 300_000, 3.0
"""How many points the viewer gets, and how far they may lie, in multiples of their median distance: it fits all of them
into its window, and a speck of sky would make the rest tiny. The download has all."""


@dataclass(frozen=True)
class Result:
    """A photograph and what a model said about it; colours and points are made of it without asking the model again.

    Attributes:
        cache: folder for its files. Each call writes into a new one in there, so that no address changes its content.
        name: file name of the photograph without extension; the result's files are named after it.
        image: RGB uint8 (H, W, 3).
        prediction: what the model said, (H, W).
        seconds: how long the prediction took.
        focal_px: focal length in pixels of the photograph by its EXIF; None where that states none.
    """

    cache: Path
    name: str
    image: NDArray[np.uint8]
    prediction: Prediction
    seconds: float
    focal_px: float | None = None

    @property
    def fov_deg(self) -> float | None:
        """Field of view across the longer side by the photograph's EXIF, in degrees; None where that states none."""
        return None if self.focal_px is None else fov_of(self.focal_px, *self.image.shape[:2])

    def shown(self, colormap: str) -> tuple[str, str]:
        """Paths of the photograph and of its disparity in colours, at the size of a screen."""
        folder = self._folder()
        small = Prediction(_for_screen(self.prediction.values), self.prediction.kind)
        write_bytes(folder / "photo.png", encode_png(_for_screen(self.image)))
        write_bytes(folder / "disparity.png", encode_png(color_picture(small, colormap)))
        return str(folder / "photo.png"), str(folder / "disparity.png")

    def files(self, *names: str, colormap: str = "Spectral_r") -> list[str]:
        """Paths of outputs of `predict` in the photograph's size: `color`, `control`, `16bit`, `npy`, in that order."""
        paths = Outputs(names, colormap).write(self._folder() / self.name, self.image, self.prediction)
        return [str(path) for path in paths]

    def points(self, fov_deg: float) -> tuple[str, str]:
        """Paths of its points for the viewer (glb) and to download (ply); `fov_deg` is across the longer side.

        Raises:
            UserError: trimesh is not installed.
            BadSample: `no_points`.
        """
        cloud = from_prediction(self.image, self.prediction, fov_deg=fov_deg)
        viewed = from_prediction(self.image, self.prediction, fov_deg=fov_deg, max_points=VIEWED_POINTS)
        path = self._folder() / self.name
        glb, ply = (path.with_name(f"{path.name}.{kind}") for kind in ("glb", "ply"))
        write_bytes(ply, cloud.encode("ply"))
        write_bytes(glb, _without_far(viewed).encode("glb"))
        return str(glb), str(ply)

    def caption(self, colormap: str) -> str:
        """HTML: which colours are far and near, in metres where the model knows them, and what kind of number it is."""
        stops = colorize(np.linspace(0, 1, 17)[None], colormap=colormap, limits=(0, 1))[0]
        gradient = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in stops)
        if self.prediction.kind == "metric":
            far, near = (f"{1 / limit:.2f} m" for limit in np.percentile(self.prediction.disparity, (1, 99)))
            kind = "Metric depth, along the optical axis."
        else:
            far, near = "far", "near"
            kind = "Relative disparity: larger is nearer. It has no metres."
        height, width = self.prediction.values.shape
        return (
            f'<div class="scale"><span>{far}</span>'
            f'<span class="bar" style="background: linear-gradient(to right, {gradient})"></span>'
            f"<span>{near}</span></div>"
            f'<div class="facts"><span>{kind}</span><span>{width} × {height} in {self.seconds:.2f} s</span></div>'
        )

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.cache))


def predict(photo: Path, model: PhotoPredictor, *, size: int | None, cache: Path) -> Result:
    """Predict an image file, for the camera that its EXIF states.

    Args:
        photo: path of the image file.
        model: predicts it.
        size: shorter side in pixels for the network; None is the size that the model was trained at.
        cache: folder for the result's files.

    Raises:
        UserError: it is no image that can be used, or not at that size.
        BadSample: `no_camera`, where the model needs a focal length and EXIF states none.
    """
    image, focal_px = load_image(photo), stated_focal(photo)
    start = time.perf_counter()
    prediction = model.predict(image, size, focal_px)
    return Result(cache, photo.stem, image, prediction, time.perf_counter() - start, focal_px)


def _for_screen(picture: NDArray[Any]) -> NDArray[Any]:
    height, width = picture.shape[:2]
    scale = SHOWN_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _without_far(cloud: PointCloud) -> PointCloud:
    distance = cloud.points[:, 2]
    kept = distance <= VIEWED_MEDIANS * np.median(distance)
    return PointCloud(cloud.points[kept], cloud.colors[kept])
