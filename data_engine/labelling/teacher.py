"""A depth model in the role of the teacher, on a CPU or one GPU."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.device import choose_device
from depth_anything_train.inference.preprocess import network_size, resize_on
from depth_anything_train.ops.normalisation import normalize_
from depth_anything_train.runtime import UserError, require_count

Prepared = tuple[NDArray[Any], int, int]
"""An image, height and width at which the network sees it."""

ON_RECORD = ("experiment", "steps", "encoder", "init", "data", "licence", "source")
"""What the labels' folder repeats of what is on record about their teacher."""


class ModelTeacher:
    """A relative depth model as `settings.Teacher`. Pickles the source path and the expected hash, not the weights.

    Args:
        source: whatever `DepthAnything.from_pretrained` takes.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `fp32` or `bf16`.
        compile: compile the network, once for each size of image.
        threads: threads of torch on a CPU.

    Raises:
        UserError: there is no such model, it is metric, or `threads` is no whole number of at least 1.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        compile: bool = False,
        threads: int = 2,
    ) -> None:
        self.source = str(Path(source).resolve()) if Path(source).exists() else str(source)  # else a name on the hub
        require_count("threads", threads)
        self.device, self.threads = device, threads
        self.precision, self.compile = precision, compile
        self._loaded = DepthAnything.from_pretrained(self.source, device="cpu")
        if self._loaded.kind != "relative":
            raise UserError(
                "Expected a relative teacher, but this model is metric; pseudo labels are relative disparity."
            )
        if not isinstance(self._loaded.size, int):
            raise UserError(f"Expected a teacher that keeps the aspect, but {source} stretches to {self._loaded.size}.")
        self.hash, self.size = self._loaded.hash, self._loaded.size
        self.record = {key: value for key, value in self._loaded.extra.items() if key in ON_RECORD}
        self._patch = self._loaded.model.config.encoder.patch_size

    def __getstate__(self) -> dict[str, Any]:
        here = ("_loaded", "network", "_on_gpu", "_copies")
        return {name: value for name, value in self.__dict__.items() if name not in here}

    @cached_property
    def network(self) -> DepthAnything:
        """The model on its device, loaded when it is first needed, where it is needed.

        Raises:
            UserError: its weights are not those that this teacher began with.
        """
        loaded = self.__dict__.pop("_loaded", None) or DepthAnything.from_pretrained(self.source, device="cpu")
        if loaded.hash != self.hash:
            raise UserError(f"The weights of {self.source} changed while it was labelling; choose another out=.")
        return DepthAnything(
            loaded.model,
            size=loaded.size,
            extra=loaded.extra,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
        )

    @cached_property
    def _copies(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.network.device)

    def network_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Height and width at which the network sees an image, as `inference.preprocess.network_size`."""
        return network_size(height, width, size, patch=self._patch)

    @cached_property
    def _on_gpu(self) -> bool:
        return choose_device(self.device).type == "cuda"

    def prepare(self, image: NDArray[np.uint8], height: int, width: int) -> Prepared:
        """Bicubic in floating point, 0 to 1, as `inference.preprocess.prepare`; normalised on the device.

        An image for a GPU is resized there, unless it would take more memory until then: here that is a fifth of a
        label's processor time.
        """
        if self._on_gpu and image.nbytes <= 4 * 3 * height * width:
            return image, height, width
        exact = np.divide(image, np.float32(255), dtype=np.float32)
        return cv2.resize(exact, (width, height), interpolation=cv2.INTER_CUBIC), height, width

    def load(self, images: list[Prepared]) -> Tensor:
        """A batch (B, h, w, 3) on the device; on a GPU beside what it is at."""
        pixels = [image for image, *_ in images]
        if not self._on_gpu:
            return torch.from_numpy(np.stack(pixels)).to(self.network.device)
        with torch.cuda.stream(self._copies):
            batch = resize_on(self.network.device, pixels, *images[0][1:]).permute(0, 2, 3, 1)
        self._copies.synchronize()
        return batch

    def infer(self, batch: Tensor, *, flip: bool) -> tuple[Tensor, torch.cuda.Event | None]:
        """Predict, (B, V, h, w). On a GPU this returns before the result is there; the event says when it is."""
        before = torch.get_num_threads()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        try:
            views = self._predict(batch, flip)
        finally:
            torch.set_num_threads(before)
        if self.network.device.type != "cuda":
            return views.cpu(), None
        batch.record_stream(torch.cuda.current_stream(batch.device))  # it was made on another stream
        result = torch.empty(views.shape, dtype=views.dtype, pin_memory=True).copy_(views, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(batch.device))
        return result, done

    def _predict(self, batch: Tensor, flip: bool) -> Tensor:
        images = normalize_(batch.permute(0, 3, 1, 2), white=1)
        views = [self.network.infer(images)]
        if flip:
            views.append(self.network.infer(images.flip(-1)).flip(-1))
        return torch.cat(views, 1)

    def fetch(self, result: tuple[Tensor, torch.cuda.Event | None]) -> NDArray[np.float32]:
        """Wait for a result; (B, V, h, w)."""
        views, done = result
        if done is not None:
            done.synchronize()
        return views.numpy()
