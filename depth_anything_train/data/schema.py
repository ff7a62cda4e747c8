"""The shard format, version 1: what every writer writes and every reader reads.

    labelled shard      per key: image (jpg, jpeg, png or webp; bytes untouched), one label, json
    image shard         per key: image; anything else is ignored (img2dataset's json and txt, say)
    pseudo-label shard  beside an image shard: same name, same keys, same order, one label each
    segmented shard     per key: image, classes.png, json

A shard is an ordinary webdataset tar. The members of one sample stand together and share their key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.runtime import UserError

SCHEMA, PACKED_SCHEMA = 1, 2
"""Of dataset.json; the second for dz16 labels with a scale, which older programs would read without it."""

LABELLED, IMAGES, PSEUDO_LABELS, SEGMENTED = "labelled", "images", "pseudo_labels", "segmented"
"""The kinds of shard folder, as `kind` in dataset.json."""
KINDS = (LABELLED, IMAGES, PSEUDO_LABELS, SEGMENTED)

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
QUANTITIES = ("depth", "disparity")
CODECS = ("png", "npy", "dz16")
LABEL_EXTENSIONS = tuple(f"{quantity}.{codec}" for quantity in QUANTITIES for codec in CODECS)
META = "json"
CLASSES = "classes.png"
"""The label of segmented shards, optional in labelled ones: uint8 class of every pixel, 255 where there is none."""
NO_CLASS = 255
DISPARITY_DZ16 = "disparity.dz16"
"""The label that this package writes by itself: of a teacher, and of the procedural world."""

SKY = "sky.png"
"""Optional in labelled shards: uint8, not 0 where the sky is. It is farthest (disparity 0) where no label exists."""

DATASET_FILE = "dataset.json"
"""What a folder of shards holds. `prepare` writes it last, `label` first: there a shard counts by its own manifest."""
UNFINISHED_FILE = "prepare.json"
"""What a folder of shards will hold; written first. Without dataset.json beside it the folder is not finished."""

Encoded = bytes | memoryview
"""The content of a member. As it is read it is a view of the sample's bytes, since a copy would take as long as to read
them; it keeps the whole sample in memory."""

Label = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""(disparity, valid) of a decoded label, both (H, W); see `labels`."""

_DOTTED = tuple(f".{extension}" for extension in (*LABEL_EXTENSIONS, CLASSES, SKY))


class BadSample(UserError):
    """One sample that cannot be used: skipped and counted under `reason`, a short slug such as `truncated_image`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, str(self))


class BadShard(UserError):
    """A whole shard that cannot be trusted: cut off, changed since it was indexed, or not a tar we read."""


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and lower-case extension.

    The cut is before a known two-part extension (`depth.png`), else at the last dot, so a key may hold dots:
    `a/photo.v2.jpg` is key `a/photo.v2`, extension `jpg`. (webdataset cuts at the first dot and loses that image.)
    """
    folder, slash, base = name.rpartition("/")
    lower = base.lower()
    if lower.endswith(_DOTTED):
        extension = ".".join(lower.split(".")[-2:])
        if len(lower) > len(extension) + 1:
            return folder + slash + base[: -len(extension) - 1], extension
    stem, dot, extension = base.rpartition(".")
    return (folder + slash + stem, extension.lower()) if dot else (name, "")


def check_member_name(name: str) -> str:
    """Return a tar member's name without a leading `./`.

    Raises:
        BadSample: `unsafe_name` if it is absolute, climbs with `..`, or is empty.
    """
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise BadSample("unsafe_name", f"Expected a relative member name, but got {name!r}; repack the shard.")
    return name.removeprefix("./")


@dataclass(frozen=True)
class Record:
    """One sample as it lies in the shard: encoded members by extension."""

    key: str
    members: Mapping[str, Encoded]

    def __reduce__(self) -> tuple[Any, ...]:  # to another process goes a copy
        return type(self), (self.key, {extension: bytes(content) for extension, content in self.members.items()})

    @property
    def image(self) -> Encoded:
        """The encoded image.

        Raises:
            BadSample: `missing_image`.
        """
        for extension in IMAGE_EXTENSIONS:
            if extension in self.members:
                return self.members[extension]
        raise BadSample("missing_image", f"Sample {self.key} has no image, only {sorted(self.members)}.")

    @property
    def unit(self) -> str:
        """The unit of its label as its json states it, `m` for metres; `unknown` where it does not.

        Raises:
            BadSample: `bad_json`.
        """
        return str(self.meta.get("unit", "unknown"))

    def label(self) -> tuple[str, Encoded]:
        """Extension and bytes of the label, ready for `labels.decode_label`.

        Raises:
            BadSample: `missing_label`, or `label_type` if there is more than one.
        """
        found = [(extension, self.members[extension]) for extension in LABEL_EXTENSIONS if extension in self.members]
        if not found:
            raise BadSample("missing_label", f"Sample {self.key} has no label, only {sorted(self.members)}.")
        if len(found) > 1:
            raise BadSample("label_type", f"Sample {self.key} has {len(found)} labels; exactly one is allowed.")
        return found[0]

    @property
    def meta(self) -> dict[str, Any]:
        """The sample's `json`, or an empty dict if it has none.

        Raises:
            BadSample: `bad_json`.
        """
        try:
            meta = json.loads(bytes(self.members.get(META, b"{}")))
        except (ValueError, RecursionError) as error:
            raise BadSample("bad_json", f"The json of sample {self.key} cannot be read: {error}.") from None
        if not isinstance(meta, dict):
            raise BadSample("bad_json", f"The json of sample {self.key} is no object, not {type(meta).__name__}.")
        return meta
