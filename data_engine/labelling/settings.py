"""How images are labelled: the settings, and what the engine asks of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_engine.labelling.batches import MAX_ASPECTS
from data_engine.labelling.filters import Filters
from depth_anything_train.runtime import UserError, require_count


@dataclass(frozen=True)
class LabelSettings:
    """What a label and its flags depend on besides the image and the teacher.

    `batch_size` and `patience` change the rounding alone, so they may change from shard to shard.

    Args:
        size: shorter side in pixels at which the teacher sees an image.
        batch_size: images of one network size that go through the teacher together.
        patience: further images of the shard for which a batch that is not full waits.
        aspects: at most 8 values of width / height: images are stretched to the nearest one, so that there are few
            network sizes. None keeps the aspect of each image.
        flip: average with the prediction of the mirrored image.
        filters: limits above which images and labels are flagged.

    Raises:
        UserError: one of them makes no sense.
    """

    size: int
    batch_size: int = 8
    patience: int = 256
    aspects: Sequence[float] | None = None
    flip: bool = False
    filters: Filters = field(default_factory=Filters)

    def __post_init__(self) -> None:
        for name in ("size", "batch_size", "patience"):
            require_count(name, getattr(self, name))
        aspects = self.aspects or []
        if len(aspects) > MAX_ASPECTS or not all(isinstance(a, int | float) and 0.1 <= a <= 10 for a in aspects):
            raise UserError(
                f"Expected at most {MAX_ASPECTS} values of width / height, 0.1 to 10, as aspects, but got {aspects}."
            )


class Teacher(Protocol):
    """What the engine asks of a teacher. Images are (h, w, 3) arrays, predictions (V, h, w) float32 disparity.

    `prepare` and `load` are called in threads beside `infer`; `infer` may return before its result is there. To label
    in other processes it must pickle, as the description of what is to be loaded there rather than with its weights.

    Attributes:
        hash: hash of the weights.
        size: shorter side in pixels at which it was trained.
        device: where it runs: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        precision: `fp32` or `bf16`.
        compile: whether it is compiled, once for each size of image.
        threads: its threads on a CPU. They change the rounding, so it has the same number in every worker.
        record: what is known about it, for the record of models that learn from its labels.
    """

    hash: str
    size: int
    device: str
    precision: Literal["fp32", "bf16"]
    compile: bool
    threads: int
    record: dict[str, Any]

    def network_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Height and width at which it sees an image if the shorter side is to be `size`.

        Raises:
            UserError: it cannot take such an image.
        """

    def prepare(self, image: NDArray[np.uint8], height: int, width: int) -> Any:
        """An RGB image (H, W, 3) at the size of the network, ready to be stacked."""

    def load(self, images: list[Any]) -> Any:
        """A batch of prepared images of one size, on its device."""

    def infer(self, batch: Any, *, flip: bool) -> Any:
        """Predict a batch; with flip the mirrored images as well."""

    def fetch(self, result: Any) -> NDArray[np.float32]:
        """Wait for a result and return it, (B, V, h, w); V is 1, or 2 with the mirrored images mirrored back."""
