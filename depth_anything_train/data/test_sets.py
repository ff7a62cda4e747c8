"""Test sets: shard folders by name, or some of their samples; labelled images with their labels in physical units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.camera import read_focal
from depth_anything_train.data.labels import decode_pair
from depth_anything_train.data.schema import LABELLED, BadSample, Record
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.ops.sampling import evenly
from depth_anything_train.runtime import UserError


class Records(Protocol):
    """Samples that can be read one by one: a ShardFolder, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


class EvenlySpread:
    """At most `limit` of the records, at even distances; all of them if it is None."""

    def __init__(self, records: Records, limit: int | None) -> None:
        self.records = records
        self.places = range(len(records)) if limit is None else evenly(len(records), limit)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> Record:
        return self.records[self.places[index]]


@dataclass(frozen=True)
class TestSample:
    """One decoded image with its label at the label's own size: disparity in 1/unit, exactly 0 is sky.

    `focal_px` is the camera's focal length in pixels of the image, where it is known.
    """

    group: str
    key: str
    image: NDArray[np.uint8]
    disparity: NDArray[np.float32]
    valid: NDArray[np.bool_]
    unit: str
    focal_px: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at which a prediction is judged: those of the label."""
        height, width = self.disparity.shape
        return height, width


def read_sample(record: Record, group: str, split_by: str | None = None) -> TestSample:
    """Decode one record. A sky mask is left where it is: marked sky is trained on, but not judged.

    Raises:
        BadSample: image or label cannot be used, or the json lacks the field `split_by`.
    """
    group = group_of(record, group, split_by)
    image, disparity, valid = decode_pair(record)
    return TestSample(group, record.key, image, disparity, valid, record.unit, read_focal(record.meta))


def group_of(record: Record, group: str, split_by: str | None) -> str:
    """Name of the test set that a record counts for: `group`, or the value of the field `split_by` of its json.

    Raises:
        BadSample: the json lacks that field.
    """
    if split_by is None:
        return group
    if split_by not in record.meta:
        raise BadSample(f"no_{split_by}", f"Sample {record.key} has no {split_by} in its json.")
    return str(record.meta[split_by])


LOOKED_AT = 10
"""Records of each set that are asked for their fields."""


def fields_of(data: Mapping[str, Records]) -> set[str]:
    """Fields of the samples' json that a few records of each set have."""
    fields = set[str]()
    for records in data.values():
        for place in evenly(len(records), LOOKED_AT):
            with suppress(BadSample):
                fields |= records[place].meta.keys()
    return fields


def no_such_field(split_by: str, fields: Iterable[str]) -> str:
    """The error message if no sample has the field `split_by`, but others."""
    known = ", ".join(sorted(fields)) or "none"
    return f"Expected a field of the samples' json as split_by, but got {split_by}; there are {known}."


def open_data(data: Any, *, kind: str = LABELLED) -> dict[str, ShardFolder]:
    """A folder, a list of folders or a mapping {name: folder} -> shard folders of one kind by name.

    Raises:
        UserError: a folder is missing or of another kind, or two share a name.
    """
    if isinstance(data, str):
        data = [data]
    if isinstance(data, list):
        names = [Path(str(folder)).name for folder in data]
        if len(set(names)) < len(names):
            raise UserError(f'Expected test folders with unique names, but got {names}; use data="{{a: DIR, b: DIR}}".')
        data = dict(zip(names, data, strict=True))
    if not isinstance(data, dict) or not all(isinstance(folder, str | Path) for folder in data.values()):
        raise UserError(f"Expected a folder, a list of folders or a mapping {{name: folder}}, but got {data!r}.")
    if not data:
        raise UserError("Expected a folder, a list of folders or a mapping {name: folder}, but got none.")
    folders = {str(name): ShardFolder(folder) for name, folder in data.items()}
    for name, folder in folders.items():
        if (found := folder.info["kind"]) != kind:
            raise UserError(f"Expected {kind} shards for {name}, but got shards of kind {found}.")
    return folders
