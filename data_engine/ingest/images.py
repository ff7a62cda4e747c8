"""Photographs without labels: a folder with any folders below it, archives, or a list of paths.

The bytes of an image are never changed. The key is the path without its extension, with `/`, `.` and odd characters
as `_`, where an archive counts as a folder of its name; where two paths give one key the second is dropped as
`duplicate_key`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_engine.ingest.archives import ARCHIVES, archive_name
from data_engine.ingest.base import RawSample, choose
from data_engine.ingest.listing import Packed, Photo, list_photos
from depth_anything_train.data.images import decode_image, read_header
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, IMAGES, BadSample
from depth_anything_train.runtime import UserError


@dataclass(frozen=True)
class Images:
    """JPEG, PNG and WebP files, loose or in archives (zip, tar, tar.gz, LMDB).

    Args:
        root: a folder, whose archives are taken where it holds no image files; one archive; or a text file with one
            path of a file or archive a line, relative to its folder.
        source: name of the set; the root's name if empty.
        count: take only so many, drawn by `seed`; None takes all.
        seed: seed of that draw.
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
        root = Path(self.root).expanduser().resolve()
        name = archive_name(root.name).removesuffix(".txt") if root.is_file() else root.name
        object.__setattr__(self, "source", self.source or name or root.parent.name)

    def items(self) -> Sequence[Photo | Packed]:
        """All photographs: files in natural order, members of an archive in its own.

        Raises:
            UserError: nothing there, no photographs in it, or an archive that is damaged.
        """
        photos = list_photos(Path(self.root).expanduser())
        if not photos:
            wanted = f"photographs ({', '.join(IMAGE_EXTENSIONS)}) or archives of them ({', '.join(ARCHIVES)})"
            raise UserError(f"Expected {wanted} in {self.root} or below, but there are none; check root=.")
        return choose(photos, self.count, self.seed)

    def load(self, item: Photo | Packed) -> RawSample:
        """Read and check one photograph.

        Raises:
            BadSample: `duplicate_key`, as `listing.Photo.read` and `Packed.read`, or as `images.decode_image`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"A file before it has the same key {item.key}; rename one.")
        root = Path(self.root).expanduser()
        data = item.read(root.parent if root.is_file() else root)
        header = read_header(data)
        if self.decode:
            decode_image(data)
        return RawSample(item.key, {header.extension: data})

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {name: getattr(self, name) for name in ("count", "seed", "decode")}}
