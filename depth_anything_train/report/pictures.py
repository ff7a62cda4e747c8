"""Rows of small pictures: image, truth, predictions and errors; image and pseudo label."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.data.test_sets import Records, fields_of, group_of, no_such_field, open_data, read_sample
from depth_anything_train.evaluation.examples import example_row
from depth_anything_train.inference.prediction import Predictor
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.ops.colormaps import colorize
from depth_anything_train.ops.sampling import evenly
from depth_anything_train.pages.pictures import Picture, PictureRow, encode
from depth_anything_train.runtime import UserError


def example_rows(
    data: Any,
    models: Mapping[str, Predictor],
    protocol: DepthProtocol,
    *,
    split_by: str | None,
    per_group: int,
    order: Sequence[str] = (),
) -> list[PictureRow]:
    """Image, ground truth, every model's prediction and every model's error, for a few images per test set.

    Args:
        data: labelled folders as `evaluate` takes them.
        models: predictors by name.
        protocol: alignment and range.
        split_by: field of the samples' json that names the test set.
        per_group: images per test set, spread evenly by position.
        order: names of test sets that come first, in this order.
    """
    folders = open_data(data)
    members = _members(folders, split_by)
    ranks = {name: position for position, name in enumerate(order)}
    rows = []
    for group in sorted(members, key=lambda name: (ranks.get(name, len(ranks)), name)):
        for name, index in (members[group][k] for k in evenly(len(members[group]), per_group)):
            with contextlib.suppress(BadSample):  # `evaluate` counts them
                rows.append(example_row(read_sample(folders[name][index], group), models, protocol))
    return rows


def _members(folders: Mapping[str, Records], split_by: str | None) -> dict[str, list[tuple[str, int]]]:
    """Where the samples of every test set lie: (folder, index)."""
    if split_by is None:  # a folder is a set, and nothing has to be read
        return {name: [(name, index) for index in range(len(folder))] for name, folder in folders.items()}
    members: dict[str, list[tuple[str, int]]] = {}
    for name, folder in folders.items():
        for index in range(len(folder)):
            with contextlib.suppress(BadSample):
                members.setdefault(group_of(folder[index], name, split_by), []).append((name, index))
    if not members:
        raise UserError(no_such_field(split_by, fields_of(folders)))
    return members


def pseudo_label_rows(folder: str, count: int) -> list[PictureRow]:
    """Image and pseudo label for `count` samples at even distances; samples that cannot be used are passed over.

    Raises:
        UserError: the folder holds no pseudo labels, or they are not finished.
    """
    source = PseudoLabelSource([folder])
    rows = []
    for index in evenly(len(source), count):
        with contextlib.suppress(BadSample):
            rows.append(_pseudo_label(source.load(index)))
    return rows


def _pseudo_label(sample: Mapping[str, Any]) -> PictureRow:
    label = colorize(sample["disparity"], sample["valid"])
    pictures = [
        Picture("image", "", f"Unlabelled photograph {sample['key']}", encode(sample["image"])),
        Picture("pseudo label", "", f"Disparity of {sample['key']} as the teacher labelled it", encode(label)),
    ]
    return PictureRow("", sample["key"], pictures)
