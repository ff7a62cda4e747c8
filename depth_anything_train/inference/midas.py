"""MiDaS beside Depth Anything: the models the field compares with, answering the same calls, through transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.device import choose_device
from depth_anything_train.inference.prediction import Focals, ImageLike, Kind, Prediction, load_image
from depth_anything_train.models.from_transformers import load_transformers
from depth_anything_train.models.weights import weights_hash
from depth_anything_train.runtime import UserError, require_count

RELEASED = {"large": "Intel/dpt-beit-large-512", "hybrid": "Intel/dpt-hybrid-midas"}

# The coarsest fusion layer gets a single map. The released files leave these weights out, and nothing reads them.
UNUSED = "neck.fusion_stage.layers.0.residual_layer1."


class Midas:
    """A DPT of MiDaS 3 with the image processor that belongs to it.

    Preparation, network and enlargement to the photograph are those of transformers' `pipeline("depth-estimation")`,
    so the numbers are the pipeline's.

    - [0]: Towards Robust Monocular Depth Estimation, 2020, https://arxiv.org/abs/1907.01341
    - [1]: Vision Transformers for Dense Prediction, 2021, https://arxiv.org/abs/2103.13413

    Args:
        model: a `DPTForDepthEstimation`.
        processor: its image processor.
        device: where it runs; a CUDA device where there is one.
    """

    kind: Kind = "relative"
    encoder_name = "midas"
    setup: Mapping[str, Any] = {}
    max_depth_m: float | None = None

    def __init__(self, model: nn.Module, processor: Any, *, device: str | torch.device | None = None) -> None:
        self.device = choose_device(device)
        self.model = model.eval().to(self.device)
        self.processor = processor

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device | None = None) -> Midas:
        """Load a released model or one that transformers saved; safetensors alone, and no code but transformers' own.

        Args:
            source: `large` (DPT-BEiT-L-512), `hybrid` (DPT-Hybrid), a transformers folder, or a name on the hub.
            device: where it runs; a CUDA device where there is one.

        Raises:
            UserError: transformers is missing, there is no such model, or it is no complete DPT.
        """
        what = f"MiDaS as {', '.join(RELEASED)} or a DPT"
        name = RELEASED.get(str(source), source)
        model, processor = load_transformers("DPTForDepthEstimation", name, what=what, may_lack=(UNUSED,))
        return cls(model, processor, device=device)

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return weights_hash(self.model)

    @torch.inference_mode()
    def forward(
        self, images: list[NDArray[np.uint8]], size: int | None = None, focals_px: Focals = None
    ) -> list[NDArray[np.float32]]:
        """Relative disparity (H, W) at the photographs' size, for RGB images (H, W, 3) of one common size.

        `size` is the side that the image processor aims at, instead of the model's own 384 or 512.

        Raises:
            UserError: the network cannot take that size, which DPT-Hybrid never can.
            BadSample: `extreme_aspect`, the images are too narrow for it.
        """
        self.check_size(size)
        sides = {} if size is None else {"size": {"height": size, "width": size}}
        try:
            inputs = self.processor(images=images, return_tensors="pt", input_data_format="channels_last", **sides)
            outputs = self.model(inputs["pixel_values"].to(self.device))
        except (ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            height, width = images[0].shape[:2]
            seen = f"{width} x {height} pixels" + ("" if size is None else f" at size={size}")
            expected = f"Expected images that MiDaS can take, but {seen} do not fit"
            if re.search(r"(height|width)=0\b", str(error)):
                raise BadSample("extreme_aspect", f"{expected}: they are too narrow.") from None
            raise UserError(f"{expected}: {error}.") from None
        shapes = [image.shape[:2] for image in images]
        maps = self.processor.post_process_depth_estimation(outputs, target_sizes=shapes)
        found = (one["predicted_depth"].float().cpu().numpy() for one in maps)  # called depth, but it is disparity
        return [values.reshape(shape) for values, shape in zip(found, shapes, strict=True)]

    # What `DepthAnything` does around its network; here the image processor does it, inside `forward`.

    def check_size(self, size: Any) -> None:
        """Refuse what is no size; only `forward` sees which ones a network can take.

        Raises:
            UserError: it is no whole number above 0.
        """
        if size is not None:
            require_count("size", size)

    def prepare(self, image: NDArray[np.uint8], size: int | None = None, *, fast: bool = False) -> NDArray[np.uint8]:
        """The RGB image (H, W, 3) itself."""
        return image

    def forward_prepared(self, prepared: Sequence[Any], size: int | None = None) -> list[NDArray[np.float32]]:
        """`forward` of what `prepare` gave, at that size."""
        return self.forward(list(prepared), size)

    def check_camera(self, focal_px: float | None) -> None:
        """Nothing: the camera does not matter."""

    def to_camera(
        self, values: NDArray[np.float32], focal_px: float | None, shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """The values (h, w) themselves: they have no metres."""
        return values

    @overload
    def predict(self, image: ImageLike, size: int | None = None, focal_px: float | None = None) -> Prediction: ...

    @overload
    def predict(self, image: list[Any], size: int | None = None, focal_px: float | None = None) -> list[Prediction]: ...

    def predict(
        self, image: ImageLike | list[Any], size: int | None = None, focal_px: float | None = None
    ) -> Prediction | list[Prediction]:
        """Predict one photograph at its own size, or each of a list; the camera does not matter.

        Raises:
            UserError: no such file, or an array of another shape.
            BadSample: bytes that are no sound image.
        """
        if isinstance(image, list):
            return [self.predict(one, size) for one in image]
        return Prediction(self.forward([load_image(image)], size)[0], self.kind)
