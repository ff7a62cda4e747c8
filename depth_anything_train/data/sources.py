"""Samples by number, out of folders of shards: what every kind of training image has in common once it is decoded.

A sample is a dict of arrays, images as (H, W, 3) uint8 RGB. Its label may have another resolution than its image.
"""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.exclusions import Selection, select
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import (
    add_sky,
    decode_classes,
    decode_label,
    decode_pair,
    decode_sky,
    to_unit_range,
)
from depth_anything_train.data.remote import AnyPath, RemotePath
from depth_anything_train.data.schema import LABELLED, NO_CLASS, PSEUDO_LABELS, SKY, BadSample
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import read_json
from depth_anything_train.parallel import in_parallel
from depth_anything_train.runtime import UserError, fingerprint, require_count

Sample = dict[str, Any]
"""`image`, `key`, and either `disparity` and `valid` or `classes`."""


class Source(ABC):
    """Several folders of shards as one sequence of samples: plain concatenation, as in the paper (section 4.1).

    Samples on a folder's list of bad keys have no number: they are left out.

    Args:
        folders: paths, in the order in which they are numbered.
        skip: reasons of flags and suspicions that leave a sample out too; see `exclusions`.

    Raises:
        UserError: a folder is missing, empty, unfinished or of another kind, or its list of bad keys is.
    """

    kind: str
    """What dataset.json of every folder must say."""

    blank: ClassVar[Mapping[str, np.generic]] = {"disparity": np.float32(0), "valid": np.bool_(False)}
    """What a pixel without label holds, by the name of the map."""

    def __init__(self, folders: Sequence[str | Path], *, skip: Collection[str] = ()) -> None:
        if isinstance(folders, str | Path) or not folders or not all(isinstance(f, str | Path) for f in folders):
            raise UserError(f"Expected a list of folders with {self.kind} shards, but got {folders!r}; use [DIR,...].")
        self.folders = [ShardFolder(folder) for folder in folders]
        first = Counter(folder.shards[0].resolve() for folder in self.folders)
        if twice := [str(shard.parent) for shard, count in first.items() if count > 1]:
            raise UserError(f"{twice[0]} stands twice among the folders with {self.kind} shards; name it once.")
        for folder in self.folders:
            if folder.info["kind"] != self.kind:
                raise UserError(
                    f"Expected {self.kind} shards in {folder.path}, but its dataset.json says {folder.info['kind']}; "
                    "check which list the folder belongs to."
                )
        self.skip = tuple(skip)
        self.images = [self._images_of(folder) for folder in self.folders]
        self.selections = [select(*pair, skip) for pair in zip(self.folders, self.images, strict=True)]
        self.starts = [0, *itertools.accumulate(map(len, self.selections))]

    def _images_of(self, folder: ShardFolder) -> ShardFolder:
        """The shards that hold the images: the same ones, unless a kind knows others."""
        return folder

    def __len__(self) -> int:
        return self.starts[-1]

    def shard_counts(self) -> list[list[int]]:
        """Number of samples in each shard of each folder, without those that are left out."""
        pairs = zip(self.folders, self.selections, strict=True)
        return [selection.counts(folder.starts) for folder, selection in pairs]

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the folder that holds sample `index`, and the sample's number inside it."""
        folder = bisect.bisect_right(self.starts, index) - 1
        return folder, self.selections[folder][index - self.starts[folder]]

    @property
    def is_remote(self) -> bool:
        """Whether any of its shards are elsewhere."""
        return any(isinstance(folder.path, RemotePath) for folder in (*self.folders, *self.images))

    def shards_of(self, shard: int) -> Iterator[tuple[ShardFolder, int]]:
        """Folder, and number in it, of the files behind a shard; `shard` counts through all folders."""
        for labels, images in zip(self.folders, self.images, strict=True):
            if shard < len(labels.shards):
                yield from ((folder, shard) for folder in {labels, images})
                return
            shard -= len(labels.shards)

    def name_of(self, index: int) -> str:
        """Name of the data set that sample `index` belongs to."""
        return _name(self.folders[self.locate(index)[0]])

    @property
    def digest(self) -> str:
        """Equal where equal numbers mean equal samples, by the checksums of all shards and by what is left out."""
        parts = zip(self.folders, self.images, self.selections, strict=True)
        return fingerprint([(one.starts, one.content, images.content, left.digest) for one, images, left in parts])

    def left_out(self) -> Iterator[str]:
        """How many are left out of each folder and why, one sentence each; with `skip` it tells of none too."""
        for folder, selection in zip(self.folders, self.selections, strict=True):
            if selection.reasons or self.skip:
                why = [f"{count} x {reason}" for reason, count in selection.reasons.most_common()]
                if unknown := [reason for reason in self.skip if reason not in selection.names]:
                    why.append(f"none is flagged {' or '.join(unknown)}")
                left_out = f"{selection.total - len(selection)} of {selection.total} samples of {folder.path}"
                yield f"{left_out} are left out: {', '.join(why)}."

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: it cannot be used, and why.
        """

    def record(self) -> list[dict[str, Any]]:
        """What a model's record says about each folder: source, kind, images, and what is known beside."""
        return [_record(*parts) for parts in zip(self.folders, self.images, self.selections, strict=True)]


class LabelledSource(Source):
    """Images with real labels: `image`, `disparity` (h, w) float32 in 0 to 1 per map, `valid` (h, w) bool, `key`.

    Args:
        folders, skip: as those of any source.
        sky: where a sample marks the sky and nothing is labelled, the sky is valid and farthest (V1 section 3.1).
    """

    kind = LABELLED

    def __init__(self, folders: Sequence[str | Path], *, sky: bool = True, skip: Collection[str] = ()) -> None:
        super().__init__(folders, skip=skip)
        self.sky = sky

    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: as the decoders, or `no_valid_pixel`.
        """
        folder, number = self.locate(index)
        record = self.folders[folder][number]
        image, disparity, valid = decode_pair(record)
        if self.sky and SKY in record.members:
            disparity, valid = add_sky((disparity, valid), decode_sky(record.members[SKY], disparity.shape))
        return _sample(record.key, image, disparity, valid)


class PseudoLabelSource(Source):
    """Images with a teacher's labels, joined from two shards: the label folder says where its images are.

    Args:
        folders, skip: as those of any source.
        reduce_to: decode larger JPEGs at a fraction of their size, see `images.decode_image`; the views' size, or None
            to decode whole ones.

    Raises:
        UserError: as any source; labels and images do not belong together, or not all images are labelled yet.
    """

    kind = PSEUDO_LABELS

    def __init__(
        self, folders: Sequence[str | Path], *, skip: Collection[str] = (), reduce_to: int | None = None
    ) -> None:
        super().__init__(folders, skip=skip)
        if reduce_to is not None:
            require_count("reduce_to", reduce_to)
        self.reduce_to = reduce_to

    def _images_of(self, folder: ShardFolder) -> ShardFolder:
        return _image_folder(folder)

    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: as the decoders, `no_valid_pixel`, or `key_mismatch` if label and image have different keys.
        """
        folder, number = self.locate(index)
        label, image = self.folders[folder][number], self.images[folder][number]
        if label.key != image.key:
            raise BadSample("key_mismatch", f"The label of {label.key} stands where the image {image.key} is.")
        # The label's aspect may differ: the teacher sees sides rounded to whole patches, the image stretched to them.
        pixels = decode_image(image.image, reduce_to=self.reduce_to)
        return _sample(label.key, pixels, *decode_label(*label.label(), label.meta))


class SemanticSource(Source):
    """Images with the class of every pixel: `image`, `classes` (h, w) uint8 (255 none), `key`."""

    kind = LABELLED
    blank = {"classes": np.uint8(NO_CLASS)}

    def load(self, index: int) -> Sample:
        """Read and decode one sample.

        Raises:
            BadSample: as the decoders, or `missing_label` if the shard holds no classes.
        """
        folder, number = self.locate(index)
        record = self.folders[folder][number]
        image = decode_image(record.image)
        return {"image": image, "classes": decode_classes(record, image.shape), "key": record.key}


def _name(folder: ShardFolder) -> str:
    return str(folder.info.get("source", folder.path.name))


def _record(folder: ShardFolder, images: ShardFolder, selection: Selection) -> dict[str, Any]:
    facts = {
        "source": _name(folder),
        "kind": folder.info["kind"],
        "images": len(selection),
        "left_out": dict(selection.reasons) or None,
        "licences": images.info.get("licences"),
        "teacher": folder.info.get("teacher_record"),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _image_folder(labels: ShardFolder) -> ShardFolder:
    """The image shards that a pseudo-label folder belongs to, after checking that both have the same samples."""
    images = labels.open_images()
    by_pattern = labels.address != labels.path  # whose files are not listed
    done = {shard.name for shard in labels.shards if by_pattern or f"{shard.stem}.json" in labels.files}
    if missing := [shard.name for shard in images.shards if shard.name not in done]:
        raise UserError(
            f"{len(missing)} of {len(images.shards)} shards of {images.path} have no labels in {labels.path} yet "
            f"(first {missing[0]}); run the same `label` again and it continues."
        )
    names = {shard.name for shard in images.shards}
    if surplus := [shard.name for shard in labels.shards if shard.name not in names]:
        raise UserError(
            f"{len(surplus)} shards of {labels.path} have no images in {images.path} (first {surplus[0]}); put the "
            "images back, or delete these labels: the tar, its .idx and its .json."
        )
    marks = [shard.with_suffix(".json") for shard in labels.shards]
    made_from = enumerate(in_parallel(_read_manifest, marks, perhaps_quick=True))
    if others := [number for number, found in made_from if found != (images.digest(number), labels.digest(number))]:
        raise UserError(
            f"By its manifest {marks[others[0]]} labels another {images.shards[others[0]]} than there is now, and so "
            f"do {len(others) - 1} more of {len(marks)}; put back what was labelled, or label into another folder."
        )
    return images


def _read_manifest(mark: AnyPath) -> tuple[str, str]:
    """Digests of the images that were labelled and of their labels."""
    manifest = read_json(mark, keys={"input": str, "output": str})
    return manifest["input"], manifest["output"]


def _sample(key: str, image: NDArray[np.uint8], disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> Sample:
    return {"image": image, "disparity": to_unit_range(disparity, valid), "valid": valid, "key": key}
