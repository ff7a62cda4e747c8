"""What a prediction is, and what every predictor can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.schema import BadSample, Encoded
from depth_anything_train.inference.preprocess import resize_map
from depth_anything_train.models.depth_model import Kind
from depth_anything_train.runtime import UserError

ImageLike = str | Path | Encoded | PIL.Image.Image | NDArray[np.uint8]
"""A photograph: a path, the bytes of a JPEG, PNG or WebP file, a Pillow image, or uint8: RGB (H, W, 3), with alpha
(H, W, 4), or grey (H, W). Whatever its form, grey becomes RGB and alpha is dropped."""

NEAREST_M = np.float32(1e-6)  # keeps the inverse of a metric prediction finite


Focals = Sequence[float | None] | None
"""Focal length of each image in its own pixels, where it is known."""


@dataclass(frozen=True)
class Prediction:
    """One number per pixel, float32 (H, W): of the photograph, or fewer, at the network's resolution.

    `values` are what the model states: relative disparity, or metres of a metric model; the two properties name them.
    `farthest_m` is how far a metric model was made to see, if that is known.
    """

    values: NDArray[np.float32]
    kind: Kind = "relative"
    farthest_m: float | None = None

    @property
    def disparity(self) -> NDArray[np.float32]:
        """Inverse depth, larger is nearer: up to scale and shift of a relative model, in 1/m of a metric one."""
        if self.kind == "relative":
            return self.values
        return np.reciprocal(np.maximum(self.values, NEAREST_M))

    @property
    def depth_m(self) -> NDArray[np.float32]:
        """Depth along the optical axis in metres.

        Raises:
            UserError: the model is relative, so its disparity has no metres.
        """
        if self.kind == "metric":
            return self.values
        raise UserError(
            "This model predicts relative disparity, which has no metres: use .disparity, or load a model that was "
            "fine-tuned to metric depth."
        )

    def resized(self, height: int, width: int) -> Prediction:
        """The prediction at another size; what is interpolated is what the model states."""
        return replace(self, values=resize_map(self.values, height, width))


class Predictor(Protocol):
    """What can be evaluated: a network, or a baseline."""

    @property
    def hash(self) -> str:
        """Names the weights: equal weights, equal hash."""

    @property
    def setup(self) -> Mapping[str, Any]:
        """What decides its numbers beside the weights, as plain JSON."""

    @property
    def kind(self) -> Kind:
        """Whether the prediction has metres."""

    @property
    def encoder_name(self) -> str | None:
        """What the papers' rows tell models apart by: vits, vitb, vitl, vitg, or midas; None of a baseline."""

    def forward(
        self, images: list[NDArray[np.uint8]], size: int | None = None, focals_px: Focals = None
    ) -> list[NDArray[np.float32]]:
        """What it states (h, w), by `kind`, for RGB images (H, W, 3) of one common size, at its own resolution.

        Raises:
            BadSample: `no_camera` if it needs the focal length of an image, in the image's pixels, and there is none;
                `extreme_aspect` if they are too narrow for it.
        """


class PhotoPredictor(Predictor, Protocol):
    """A network for photographs: `prepare` -> `forward_prepared` -> `to_camera`, so that threads can work beside it."""

    @property
    def max_depth_m(self) -> float | None:
        """How far a metric model sees; None of a relative one."""

    def check_size(self, size: int | None) -> None:
        """Refuse a size that the network cannot take, whatever the photograph.

        Raises:
            UserError: it is none.
        """

    def check_camera(self, focal_px: float | None) -> None:
        """Refuse a photograph whose focal length is needed but unknown.

        Raises:
            BadSample: `no_camera`.
        """

    def prepare(self, image: NDArray[np.uint8], size: int | None = None, *, fast: bool = False) -> Any:
        """What the network sees of an RGB image (H, W, 3); those of one `shape` may be stacked.

        Raises:
            BadSample: `extreme_aspect`.
        """

    def forward_prepared(self, prepared: Sequence[Any], size: int | None = None) -> list[NDArray[np.float32]]:
        """What the network states, (h, w) each, for what `prepare` gave at one size."""

    def to_camera(
        self, values: NDArray[np.float32], focal_px: float | None, shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """What the network states (h, w) about a photograph of that shape, for the camera that took it."""

    def predict(self, image: ImageLike, size: int | None = None, focal_px: float | None = None) -> Prediction:
        """Predict one photograph at its own size.

        Raises:
            UserError, BadSample: it cannot be used.
        """


def load_image(image: ImageLike) -> NDArray[np.uint8]:
    """Any form of photograph -> RGB uint8 (H, W, 3), upright.

    Raises:
        UserError: no such file, an array or a Pillow image of another shape or type, or something else.
        BadSample: no sound JPEG, PNG or WebP image.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, PIL.Image.Image):
        return _from_pillow(image)
    if isinstance(image, Encoded):
        return decode_image(image)
    if not isinstance(image, str | Path):
        kind = type(image).__name__
        raise UserError(f"Expected a photograph as a path, bytes, a Pillow image or a numpy array, but got a {kind}.")
    try:
        encoded = Path(image).expanduser().read_bytes()
    except (OSError, ValueError) as error:  # the latter of a name with a NUL
        reason = getattr(error, "strerror", error)
        raise UserError(f"Expected an image file at {image}, but it cannot be read: {reason}.") from None
    return decode_image(encoded)


def _from_array(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise UserError(
            "Expected an image as uint8, RGB (H, W, 3), with alpha (H, W, 4) or grey (H, W), but got "
            f"{image.dtype} {image.shape}."
        )
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])


def _from_pillow(image: PIL.Image.Image) -> NDArray[np.uint8]:
    """As `decode_image` does it with a file: upright, 16 bits become 8. (Pillow rounds CMYK another way.)"""
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return _from_array((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise UserError(f"Expected a photograph, but got a Pillow image of mode {image.mode}; make it L or RGB.")
        return _from_array(np.asarray(upright.convert("RGB")))
    except OSError as error:  # Pillow reads a file when its pixels are first asked for
        raise BadSample("undecodable_image", f"The Pillow image cannot be decoded: {error}.") from None
