"""A folder of photographs without labels, with any folders below it.

The bytes of an image are never changed. The key is the path without its extension, with `/`, `.` and odd characters
as `_`; where two paths give one key the second is dropped as `duplicate_key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_engine.ingest.base import RawSample, choose, list_files, make_key, read_file, stem, unique_keys
from depth_anything_train.data.images import decode_image, read_header
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, IMAGES, BadSample
from depth_anything_train.runtime import UserError, require_folder


class Photo(NamedTuple):
    """One file below the root."""

    key: str
    path: str
    unique: bool

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Images:
    """A folder of JPEG, PNG and WebP files.

    Args:
        root: the folder.
        source: name of the set; the folder's name if None.
        count: take only so many, drawn by `seed`; None takes all.
        seed: of that draw.
        decode: decode every image to find damaged ones; else only type, size and end are checked, which is 50 times
            as fast.
    """

    root: str
    source: str = ""
    count: int | None = None
    seed: int = 0
    decode: bool = True

    kind = IMAGES

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or Path(self.root).expanduser().resolve().name)

    def items(self) -> Sequence[Photo]:
        """All photographs in natural order.

        Raises:
            UserError: no such folder, or no photographs in it.
        """
        root = require_folder(self.root, what="photographs")
        paths = list_files(root, IMAGE_EXTENSIONS)
        if not paths:
            wanted = ", ".join(IMAGE_EXTENSIONS)
            raise UserError(f"Expected photographs ({wanted}) in {root} or below, but there are none; check root=.")
        keys = [make_key(stem(path)) for path in paths]
        photos = [Photo(*parts) for parts in zip(keys, paths, unique_keys(keys), strict=True)]
        return choose(photos, self.count, self.seed)

    def load(self, item: Photo) -> RawSample:
        """Read and check one photograph.

        Raises:
            BadSample: `duplicate_key`, `unreadable_file`, or as `images.decode_image`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"A file before it has the same key {item.key}; rename one.")
        data = read_file(Path(self.root).expanduser() / item.path)
        header = read_header(data)
        if self.decode:
            decode_image(data)
        return RawSample(item.key, {header.extension: data})

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {name: getattr(self, name) for name in ("count", "seed", "decode")}}
