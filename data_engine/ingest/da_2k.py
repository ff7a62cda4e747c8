"""DA-2K: pairs of points with the nearer one annotated. There is no depth map, so these are image shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_engine.ingest.base import RawSample, choose, layout_of, make_key, natural_order, read_file, stem, unique_keys
from depth_anything_train.data.images import decode_image, read_header
from depth_anything_train.data.schema import IMAGES, META, BadSample
from depth_anything_train.files import read_json, require_folder
from depth_anything_train.runtime import UserError

ANNOTATIONS = "annotations.json"


class Annotated(NamedTuple):
    """One image and what was said about it, as JSON in the owners' form."""

    key: str
    path: str
    annotations: str
    unique: bool

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class Da2k:
    """DA-2K (Depth Anything V2, section 6), about 1,000 images, https://huggingface.co/datasets/depth-anything/DA-2K.

    root/annotations.json
    root/images/indoor/NAME.jpg        and outdoor, non_real, transparent_reflective, adverse_style, aerial,
                                       underwater, object

    Licence: Apache-2.0. Each sample is an image (bytes untouched) and a json with `scenario`, the folder's name, and
    `pairs`: a list of {"nearer": [row, column], "farther": [row, column]}. Rows and columns count from 0 in pixels of
    the upright image. Whoever evaluates reads `record.image` and `record.meta["pairs"]`; to everything else these are
    photographs without labels. An image is dropped if it is damaged, or if an annotation cannot be read or lies
    outside it.

    Args:
        root: the folder that the archive was unpacked in.
        count: take only so many images, drawn by `seed`; None takes all.
        seed: seed of that draw.
    """

    root: str
    count: int | None = None
    seed: int = 0

    kind = IMAGES
    source = "da_2k"
    licence = "Apache-2.0"

    def items(self) -> Sequence[Annotated]:
        """All annotated images, in natural order of their paths.

        Raises:
            UserError: no such folder, or no annotations in it.
        """
        path = require_folder(self.root, what="the data set DA-2K") / ANNOTATIONS
        if not path.is_file():
            came = f"Expected {self.source} in {self.root}, but found nothing of it"
            raise UserError(f"{came}; its layout is\n{layout_of(type(self))}")
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(pairs, list) for pairs in content.values()):
            raise UserError(f"Expected lists of pairs by the path of an image in {path}; download it again.")
        paths = sorted(content, key=natural_order)
        keys = [make_key(stem(path.removeprefix("images/"))) for path in paths]
        annotations = [json.dumps(content[path], sort_keys=True) for path in paths]
        found = [Annotated(*parts) for parts in zip(keys, paths, annotations, unique_keys(keys), strict=True)]
        return choose(found, self.count, self.seed)

    def load(self, item: Annotated) -> RawSample:
        """Read and check one image and its pairs.

        Raises:
            BadSample: `duplicate_key`, `unreadable_file`, `bad_annotation`, or as `images.decode_image`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"An image before it has the same key {item.key}.")
        data = read_file(Path(self.root).expanduser() / item.path)
        height, width = decode_image(data).shape[:2]
        meta = {
            "source": self.source,
            "kind": self.kind,
            "licence": self.licence,
            "item": item.path,
            "scenario": item.path.split("/")[-2] if "/" in item.path else None,
            "pairs": [read_pair(pair, height, width) for pair in json.loads(item.annotations)],
        }
        members = {read_header(data).extension: data, META: json.dumps(meta, sort_keys=True).encode()}
        return RawSample(item.key, members)

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {name: getattr(self, name) for name in ("count", "seed")}}


def read_pair(annotation: Any, height: int, width: int) -> dict[str, list[int]]:
    """`nearer` and `farther` point of one annotation in the owners' form.

    Raises:
        BadSample: `bad_annotation` if it is of another form or a point lies outside the image of height x width.
    """
    try:
        closer = annotation["closer_point"]
        farther = {"point1": "point2", "point2": "point1"}[closer]
        pair = {"nearer": [int(n) for n in annotation[closer]], "farther": [int(n) for n in annotation[farther]]}
        inside = [0 <= row < height and 0 <= column < width for row, column in pair.values()]
    except (KeyError, TypeError, ValueError):
        inside = [False]
    if not all(inside):
        wanted = f"two points inside {height} x {width} pixels and which is closer"
        raise BadSample("bad_annotation", f"Expected {wanted}, but got {str(annotation)[:120]}.")
    return pair
