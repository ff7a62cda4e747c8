"""The model as people use it: load, predict, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_anything_train.inference.prediction import ImageLike, Kind, Prediction, load_image
from depth_anything_train.inference.preprocess import prepare, resize_map
from depth_anything_train.models.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    load_model,
    read_description,
    save_model,
    weights_hash,
)
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.runtime import UserError
from depth_anything_train.types import Image

DEFAULT_SIZE = 518


class DepthAnything:
    """A depth model with its preparation of photographs.

    Args:
        model: the network; it is put into evaluation mode.
        size: shorter side in pixels at which it sees a photograph unless told otherwise.
        extra: what is stored beside the weights (training size, provenance); passed on by `save_pretrained`.
        device: where it runs; a CUDA device where there is one.
    """

    def __init__(
        self,
        model: DepthModel,
        *,
        size: int = DEFAULT_SIZE,
        extra: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = _device(device)
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.size = size
        self.extra = {**(extra or {}), "size": size}

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str | torch.device | None = None) -> DepthAnything:
        """Load a model folder (`model.safetensors` and `model.json`) or a run folder that holds one as `model/`.

        Raises:
            UserError: `source` is neither, or its files do not belong together.
        """
        folder = model_folder(source)
        extra = read_description(folder).get("extra", {})
        size = extra.get("size", DEFAULT_SIZE)
        if not isinstance(size, int):
            raise UserError(f"Expected a whole number as extra.size in {folder / DESCRIPTION}, but it says {size!r}.")
        return cls(load_model(folder), size=size, extra=extra, device=device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`, which `from_pretrained` reads."""
        save_model(folder, self.model, self.extra)

    @property
    def kind(self) -> Kind:
        """`relative`, or `metric` for a model that predicts metres."""
        return self.model.config.kind

    @property
    def hash(self) -> str:
        """SHA-256 of the weights, as in `model.json`."""
        return weights_hash(self.model)

    @torch.inference_mode()
    def infer(self, image: Image) -> Tensor:
        """What the network states, (B, 1, h, w) float32 on its device, for prepared images (B, 3, h, w)."""
        return self.model(image.to(self.device, memory_format=torch.channels_last)).float()

    def forward(self, images: list[NDArray[np.uint8]], size: int | None = None) -> list[NDArray[np.float32]]:
        """What the network states, (h, w) at its own resolution, for RGB images (H, W, 3) of one common size.

        Relative disparity of a relative model, metres of a metric one.
        """
        batch = prepare(images, size or self.size, patch=self.model.config.encoder.patch_size)
        return list(self.infer(batch)[:, 0].cpu().numpy())

    def disparity(self, images: list[NDArray[np.uint8]], size: int | None = None) -> list[NDArray[np.float32]]:
        """Inverse depth (h, w) at network resolution for RGB images (H, W, 3) of one common size."""
        return [Prediction(values, self.kind).disparity for values in self.forward(images, size)]

    def predict(self, image: ImageLike, size: int | None = None) -> Prediction:
        """Predict one photograph at its own size.

        Args:
            image: path, encoded bytes, or RGB uint8 (H, W, 3).
            size: shorter side in pixels for the network; the size it was trained at by default.

        Raises:
            UserError: no such file, an array of another shape, or a size the network cannot take.
            BadSample: bytes that are no sound image.
        """
        pixels = load_image(image)
        height, width = pixels.shape[:2]
        return Prediction(resize_map(self.forward([pixels], size)[0], height, width), self.kind)


def _device(wanted: str | torch.device | None) -> torch.device:
    """The device by name; by default a CUDA device where there is one.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"Expected a device such as cpu or cuda, but {name} cannot be used: {reason}.") from None


def model_folder(source: str | Path) -> Path:
    """The model folder that `source` means.

    Raises:
        UserError: it is neither a model folder nor a run folder with a finished model.
    """
    folder = Path(source).expanduser()
    for candidate in (folder, folder / "model"):
        if (candidate / DESCRIPTION).is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} is a run folder without a finished model; let its training finish first.")
    state = "holds neither" if folder.is_dir() else "is no folder"
    raise UserError(
        f"Expected a model folder ({WEIGHTS} and {DESCRIPTION}) or a run folder with model/ in it, but {source} "
        f"{state}; this version reads no hub names and no .pth files."
    )
