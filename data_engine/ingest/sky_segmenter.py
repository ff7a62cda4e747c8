"""Where the sky is in a photograph: SegFormer through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depth_anything_train.inference.device import choose_device
from depth_anything_train.models.from_transformers import load_transformers
from depth_anything_train.models.weights import weights_hash
from depth_anything_train.runtime import UserError

ADE20K_CLASSES, ADE20K_SKY = 150, 2
"""Some files of SegFormer name their classes LABEL_0 to LABEL_149; then they are those of ADE20K."""


class SkySegmenter:
    """A SegFormer with the image processor that belongs to it.

    - [0]: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, 2021,
      https://arxiv.org/abs/2105.15203

    Args:
        model: a `SegformerForSemanticSegmentation` that knows a class sky.
        processor: its image processor, which brings photographs to the size it was trained at.
        device: where it runs; a CUDA device where there is one.

    Raises:
        UserError: the model knows no sky.
    """

    def __init__(self, model: nn.Module, processor: Any, *, device: str | torch.device | None = None) -> None:
        self.sky = sky_class(model.config.id2label)  # type: ignore[union-attr, arg-type]
        self.device = choose_device(device)
        self.model = model.eval().to(self.device)
        self.processor = processor

    @classmethod
    def from_pretrained(cls, source: str, *, revision: str | None = None, device: str | None = None) -> SkySegmenter:
        """Load a model that transformers saved; safetensors alone, and no code but transformers' own.

        Args:
            source: a folder, or a name on the hub.
            revision: branch, tag or commit of the model on the hub.
            device: where it runs; a CUDA device where there is one.

        Raises:
            UserError: transformers is missing, there is no such model, it is incomplete, or it knows no sky.
        """
        name = "SegformerForSemanticSegmentation"
        model, processor = load_transformers(name, source, what="a SegFormer", revision=revision)
        return cls(model, processor, device=device)

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return weights_hash(self.model)

    @torch.inference_mode()
    def probability(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How likely each part of an RGB image (H, W, 3) is sky, 0 to 1, at the network's own resolution (h, w)."""
        inputs = self.processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        with _one_thread():
            logits = self.model(inputs["pixel_values"].to(self.device)).logits
            return logits.float().softmax(1)[0, self.sky].cpu().numpy()


def sky_class(names: Mapping[int, str]) -> int:
    """Number of the class called sky, by the model's own list of names.

    Raises:
        UserError: there is none, and the names are not just numbers of ADE20K's classes.
    """
    for number, name in names.items():
        if "sky" in (part.strip().lower() for part in str(name).replace(";", ",").split(",")):
            return int(number)
    if len(names) == ADE20K_CLASSES and all(str(name) == f"LABEL_{number}" for number, name in names.items()):
        return ADE20K_SKY
    raise UserError(f"Expected a segmenter with a class sky, but its {len(names)} classes are {[*names.values()][:5]}.")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers share the cores already, and the last bits of a sum must not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
