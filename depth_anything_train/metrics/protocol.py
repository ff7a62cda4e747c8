"""How a model is judged on a test set; a number without its protocol says nothing, so it travels with every result."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from depth_anything_train.runtime import require_choice

Family = Literal["own", "paper", "moge"]


DESCRIPTIVE = ("images", "split", "prepare", "url")


@dataclass(frozen=True)
class EvaluationProtocol(ABC):
    """Everything that decides a number apart from the model and the images, as far as all protocols share it.

    `family` says whose conventions these are. Numbers of two families never stand in one table:

    - `paper`: Depth Anything V1 and V2, as far as they are stated
    - `moge`: no cap; the aligned disparity is floored at 1 / the label's own farthest depth
    - `own`: anything else

    `flip` averages the predictions of the image and of its mirror image. `size` is the shorter side in pixels at
    which the network sees the image; None is the model's own.

    `images` is how many the split has, and `split` says in words which these are; the shards decide them, not the
    evaluation. `prepare` are the arguments of the command that writes these shards, out of what is at `url`. These four
    only describe: see `deciding`.
    """

    name: str
    family: Family = "own"
    flip: bool = False
    size: int | None = None
    images: int | None = None
    split: str = ""
    prepare: str = ""
    url: str = ""

    pooled: ClassVar[bool]
    """Whether a mean over test sets counts every image by its weight; else each test set counts the same."""

    def __post_init__(self) -> None:
        self.check_choices(family=Family)

    def check_choices(self, **kinds: Any) -> None:
        """Every named field holds one of the values of its literal.

        Raises:
            UserError: a field holds another value.
        """
        for field, kind in kinds.items():
            require_choice(field, getattr(self, field), get_args(kind))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, in the order of the fields."""
        return dataclasses.asdict(self)

    @abstractmethod
    def describe(self, size: Any = None) -> str:
        """One line for captions: everything that decides the number; `size` was asked for instead of the protocol's."""

    def seen(self, size: Any) -> str:
        """How the network sees the image, in words; `size` as in `describe`."""
        mirrored = "mean of image and mirror image; " if self.flip else ""
        return f"{mirrored}network at {shown_size(size or self.size)}"


def shown_size(size: Any) -> str:
    """The size at which a network sees an image, in words: a side, a pair (height, width), words, or its own."""
    if not size:
        return "its own size"
    if isinstance(size, str):
        return size
    return f"{size} pixels" if isinstance(size, int) else f"{size[0]} x {size[1]} pixels"


def deciding(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What of a protocol's `to_dict` decides numbers, to be compared and hashed: a mended link changes none."""
    return {key: value for key, value in protocol.items() if key not in DESCRIPTIVE}
