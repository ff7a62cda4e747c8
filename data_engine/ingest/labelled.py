"""What every raw data set with labels shares: find its pairs, check them, and put image and label into a sample."""

from __future__ import annotations

import glob
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import RawSample, choose, layout_of, make_key, natural_order, unique_keys
from data_engine.ingest.raw_labels import RawLabel
from data_engine.qa.dirty_labels import Limits, examine
from depth_anything_train.data.images import decode_image, read_header
from depth_anything_train.data.labels import check_shape, decode_label
from depth_anything_train.data.schema import LABELLED, META, SKY, BadSample
from depth_anything_train.files import require_folder
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError


class Item(NamedTuple):
    """One image and its label in a raw data set.

    Attributes:
        name: unique in the set; the key is made from it, and it names the item to a person.
        image, label: paths relative to the root, or whatever the set's `read` needs (a number in a .mat, say);
            "" where it is missing.
        extra: more of the kind: an instance mask, a camera file.
        unique: False where an item before it has the same key.
    """

    name: str
    image: str
    label: str
    extra: tuple[str, ...] = ()
    unique: bool = True

    def __str__(self) -> str:
        return self.name


class RawPair(NamedTuple):
    """What is read for an item: encoded image (bytes untouched), label, and facts for the json of the sample."""

    image: bytes
    label: RawLabel
    meta: dict[str, Any] = {}


@dataclass(frozen=True)
class PairedSet(ABC):
    """A raw data set of images and labels in its official folder layout: a subclass says how to `find` its items.

    Args:
        root: the folder that the official archives were unpacked in.
        part: which of the set's own splits; `PARTS` lists them, the first is the default in its config.
        count: take only so many, drawn by `seed`; None takes all.
        seed: seed of that draw.
    """

    root: str
    part: str = "all"
    count: int | None = None
    seed: int = 0

    kind: ClassVar[str]
    source: ClassVar[str]
    """Name of the set."""
    licence: ClassVar[str]
    """As its owners state it; kept in every sample."""
    PARTS: ClassVar[tuple[str, ...]] = ("all",)

    @abstractmethod
    def find(self, root: Path) -> Iterable[Item]:
        """Items of the part in any order; an image without label, or the reverse, is an item too."""

    @abstractmethod
    def sample(self, root: Path, item: Item, facts: dict[str, Any]) -> RawSample:
        """Read and check one item whose image and label are there; `facts` belong into its json.

        Raises:
            BadSample: it cannot be used.
        """

    def items(self) -> Sequence[Item]:
        """All items of the part, in natural order of their names.

        Raises:
            UserError: no such folder or part, or nothing in it.
        """
        if self.part not in self.PARTS:
            raise UserError(f"Expected part={' or '.join(self.PARTS)} of {self.source}, but got {self.part!r}.")
        root = require_folder(Path(self.root), what=f"the data set {self.source}")
        found = sorted(self.find(root), key=lambda item: natural_order(item.name))
        if not found:
            came = f"Expected {self.source} (part={self.part}) in {root}, but found nothing of it"
            raise UserError(f"{came}; its layout is\n{layout_of(type(self))}")
        unique = unique_keys([make_key(item.name) for item in found])
        return choose(
            [item._replace(unique=is_new) for item, is_new in zip(found, unique, strict=True)], self.count, self.seed
        )

    def load(self, item: Item) -> RawSample:
        """Read and check one item.

        Raises:
            BadSample: `duplicate_key`, `missing_image`, `missing_label`, or as `sample`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"An item before it has the same key {make_key(item.name)}.")
        for what, path in (("image", item.image), ("label", item.label)):
            if not path:
                raise BadSample(f"missing_{what}", f"Its {what} is missing; was that archive unpacked as well?")
        facts = {"source": self.source, "licence": self.licence, "item": item.name, "camera": None}
        return self.sample(Path(self.root).expanduser(), item, facts)

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {field.name: getattr(self, field.name) for field in fields(self) if field.name != "root"}}


class LabelledSet(PairedSet):
    """A raw data set with depth in its official folder layout: a subclass says how to `find` items and `read` one."""

    kind = LABELLED

    @abstractmethod
    def read(self, root: Path, item: Item) -> RawPair:
        """Read one item.

        Raises:
            BadSample: it cannot be used.
        """

    def sample(self, root: Path, item: Item, facts: dict[str, Any]) -> RawSample:
        """Read and check one item.

        Raises:
            BadSample: `label_size`, `no_valid_pixel`, or whatever `read` and the decoders raise.
        """
        image, label, meta = self.read(root, item)
        return labelled_sample(make_key(item.name), image, label, {**facts, **meta})


def find_names(root: Path, *patterns: str) -> dict[str, str]:
    """Files below `root` that fit a glob pattern, as paths by what its stars stand for.

    `*/images/*.jpg` finds a/images/1.jpg as `a/1`. Two patterns with the same stars so give the same names to an image
    and to its label. `**/` is any number of folders. Folders are listed, no file is opened.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        stars = re.compile(re.escape(pattern).replace(r"\*\*/", "(?:(.*)/)?").replace(r"\*", "([^/]*)"))
        for path in glob.iglob(pattern, root_dir=root, recursive=True):
            match = stars.fullmatch(path)
            assert match, f"{path} does not fit {pattern}"
            found.setdefault("/".join(filter(None, match.groups())), path)
    return found


def pair_up(images: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[Item]:
    """An item for each name that has an image or a label."""
    return (Item(name, images.get(name, ""), labels.get(name, "")) for name in {**images, **labels})


def labelled_sample(key: str, image: bytes, label: RawLabel, facts: dict[str, Any]) -> RawSample:
    """A checked sample: both decode, their shapes agree, and at least one pixel is valid. Dirt is noted, not dropped.

    Args:
        key: key of the sample.
        image: encoded JPEG, PNG or WebP.
        label: the label as a shard holds it.
        facts: for the json, beside quantity, unit, scale and invalid.

    Raises:
        BadSample: `label_size`, `no_valid_pixel`, or as the decoders.
    """
    extension = read_header(image).extension
    shape = decode_image(image).shape[:2]
    member = f"{label.quantity}.{label.codec}"
    numbers = {"quantity": label.quantity, "unit": label.unit, "scale": label.scale, "invalid": label.invalid}
    disparity, valid = decode_label(member, label.data, numbers)
    check_shape(shape, disparity.shape)
    if not valid.any():
        raise BadSample("no_valid_pixel", "The label has no valid pixel.")
    meta = {"kind": LABELLED, **facts, **numbers}
    members = {extension: image, member: label.data, META: json.dumps(meta, sort_keys=True).encode()}
    if label.sky is not None:
        members[SKY] = encode_mask(label.sky)
    dirty = {reason: 1 for reason, _ in examine(member, label.data, numbers, (disparity, valid), Limits())}
    return RawSample(key, members, {**label.notes, **dirty})


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """A mask (H, W) as PNG of 0 and 255, the same bytes for the same mask."""
    return encode_png(mask.astype(np.uint8) * 255)
