"""Photographs with depth or disparity maps: a folder with an index.csv, or two folders matched by file name.

`index.csv` has a row for each pair. `rgb` and `depth` are paths below the folder; every other column may be missing,
and then the settings of `Pairs` hold:

    kind           rows other than `pair` are left out
    id             name of the pair; the path of `rgb` without its extension if missing
    depth_kind     z_depth or disparity
    depth_scale    physical value = stored value / depth_scale
    depth_units    m, px or anything else for an unknown unit
    invalid_value  a stored value that marks no measurement, several with `;`; 0 always does
    fx fy cx cy    camera, pixels of the photograph; fx alone is enough where pixels are square
    dataset_licence   licence of the sample

All further columns are kept as text in the json of the sample, under their names, for whoever wants to split by them:
`environment`, `sensor`, `scene`. One whose name the json has for something else (`source`, say) is `column_NAME` there.

Labels are 16-bit PNG (as it is, or packed by `prepare`), npy, PFM, or OpenEXR of one channel (stored as float32 npy). A
label may be smaller or larger than its photograph, but must have the same shape. Zero, negative and not finite values
are invalid pixels.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_engine.ingest.base import (
    RawSample,
    choose,
    in_part,
    list_files,
    make_key,
    read_file,
    stem,
    unique_keys,
    walk_files,
)
from data_engine.ingest.labelled import labelled_sample
from data_engine.ingest.raw_labels import LABEL_FILES, RawLabel, holds_depth, read_label_file
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, LABELLED, QUANTITIES, BadSample
from depth_anything_train.files import require_folder
from depth_anything_train.runtime import UserError

COLUMNS = (
    *("kind", "id", "rgb", "depth", "depth_kind", "depth_scale", "depth_units", "invalid_value"),
    *("fx", "fy", "cx", "cy", "dataset_licence"),
)
"""Those that mean something here."""

TAKEN = ("source", "item", "quantity", "unit", "scale", "invalid", "camera", "licence")
"""Names that the json of a sample has for something else."""


class Pair(NamedTuple):
    """One photograph and its label, paths relative to the root; "" where one is missing."""

    key: str
    name: str
    image: str
    label: str
    unique: bool
    meta: dict[str, Any]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pairs:
    """A folder of photographs with depth maps.

    Args:
        root: the folder; an index.csv in it is used by itself.
        source: name of the set; the folder's name if empty.
        index: path of another CSV file with rows for pairs below root.
        images, labels: without an index, the two folders below root, matched by path without extension.
        quantity: `depth` (along the optical axis) or `disparity`, where the index does not say.
        scale: stored value / scale = metres or pixels, where the index does not say; None is an unknown unit.
        invalid: a stored value other than 0 that marks no measurement.
        part: `all`, or `train` or `test` of a split that each key decides for itself.
        test_share: share of the pairs in `test`.
        count, seed: take only so many, drawn by the seed.
    """

    root: str
    source: str = ""
    index: str | None = None
    images: str = "images"
    labels: str = "labels"
    quantity: str = "depth"
    scale: float | None = None
    invalid: int | None = None
    part: str = "all"
    test_share: float = 0.0
    count: int | None = None
    seed: int = 0

    kind = LABELLED

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.folder.resolve().name)

    @property
    def folder(self) -> Path:
        """`root`, as a path."""
        return Path(self.root).expanduser()

    @property
    def _index(self) -> Path | None:
        """The CSV file that names the pairs; None where two folders are matched."""
        if self.index:
            return Path(self.index).expanduser()
        index = self.folder / "index.csv"
        return index if index.exists() else None

    def items(self) -> Sequence[Pair]:
        """All pairs of the part, in the order of the index or of the file names.

        Raises:
            UserError: a missing folder or file, nothing in it, a row that cannot be read, or a setting out of range.
        """
        self._check_settings()
        root = require_folder(self.folder, what="pairs of photographs and depth maps")
        index = self._index
        rows = self._from_index(index) if index else self._from_folders(root)
        rows = [row for row in rows if in_part(row.key, self.part, self.test_share, self.seed)]
        if not rows:
            raise UserError(f"Expected pairs of photographs and depth maps in {root}, but part={self.part} holds none.")
        unique = unique_keys([row.key for row in rows])
        return choose(
            [row._replace(unique=is_new) for row, is_new in zip(rows, unique, strict=True)], self.count, self.seed
        )

    def load(self, item: Pair) -> RawSample:
        """Read and check one pair.

        Raises:
            BadSample: `duplicate_key`, `missing_image`, `missing_label`, `label_type`, `label_size`, `no_valid_pixel`,
                `damaged_label`, `unreadable_file`, or as `images.decode_image`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"A pair before it has the same key {item.key}; rename one.")
        image_file, label_file = self._find("image", item.image), self._find("label", item.label)
        image = read_file(image_file)
        codec, data, notes = read_label_file(label_file)
        numbers = {name: item.meta[name] for name in ("quantity", "scale", "unit", "invalid")}
        facts = {"source": self.source, "item": item.name, **item.meta}
        return labelled_sample(item.key, image, RawLabel(codec=codec, data=data, notes=notes, **numbers), facts)

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        names = ("quantity", "scale", "invalid", "part", "test_share", "count", "seed")
        return {"settings": {name: getattr(self, name) for name in names}}

    def _check_settings(self) -> None:
        if self.quantity not in QUANTITIES:
            raise UserError(f"Expected quantity=depth or quantity=disparity, but got {self.quantity!r}.")
        if self.part not in ("all", "train", "test") or not 0 <= self.test_share <= 1:
            came = f"part={self.part} test_share={self.test_share}"
            raise UserError(f"Expected part=all, train or test and a test_share from 0 to 1, but got {came}.")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise UserError(f"Expected a scale > 0 (stored value / scale = metres or pixels), but got {self.scale}.")
        if self.invalid is not None and not float(self.invalid).is_integer():
            raise UserError(f"Expected a whole number as invalid, but got {self.invalid}.")

    def _find(self, what: str, path: str) -> Path:
        file = self.folder / path
        if not path or not file.is_file():
            nameless = "its name in the index" if self._index else "a file of the same name"
            expected = f"{path} below root=" if path else nameless
            raise BadSample(f"missing_{what}", f"The {what} is missing; expected {expected}.")
        return file

    def _meta(self, quantity: str, scale: float | None, unit: str | None, invalid: int | None) -> dict[str, Any]:
        """The json of a sample as far as a label's numbers go."""
        if unit is None:
            unit = "unknown" if scale is None else {"depth": "m", "disparity": "px"}[quantity]
        scale = 1.0 if scale is None else scale
        return {"quantity": quantity, "unit": unit, "scale": scale, "invalid": invalid, "camera": None, "licence": None}

    def _from_folders(self, root: Path) -> list[Pair]:
        images, labels = root / self.images, root / self.labels
        if not images.is_dir() or not labels.is_dir():
            wanted = f"an index.csv, or photographs in {self.images}/ and depth maps in {self.labels}/"
            raise UserError(
                f"Expected {wanted} of {root}; give dataset.images= and dataset.labels=, or write an index."
            )
        first = [next(walk_files(folder, (*IMAGE_EXTENSIONS, *LABEL_FILES)), "") for folder in (images, labels)]
        if _swapped(images / first[0], labels / first[1]):
            raise UserError(
                f"{images} holds depth maps and {labels} photographs: exchange them, by "
                f"dataset.images={self.labels} dataset.labels={self.images}."
            )
        rows: dict[str, list[tuple[str, str]]] = {}
        for path in list_files(images, IMAGE_EXTENSIONS):
            rows.setdefault(stem(path), []).append((f"{self.images}/{path}", ""))
        for path in list_files(labels, LABEL_FILES):
            same = rows.setdefault(stem(path), [("", "")])
            image, label = same[0]
            if label:
                same.append((image, f"{self.labels}/{path}"))  # a second label: shows as a duplicate key
            else:
                same[0] = (image, f"{self.labels}/{path}")
        if not all(image and label for found in rows.values() for image, label in found):
            self._add_unread(root, rows)
        meta = self._meta(self.quantity, self.scale, None, self.invalid)
        return [Pair(make_key(name), name, *paths, True, meta) for name, found in rows.items() for paths in found]

    def _add_unread(self, root: Path, rows: Mapping[str, list[tuple[str, str]]]) -> None:
        """Put files of formats that are not read where a partner is missing: they are named then, with what is read."""
        for folder, position in ((self.images, 0), (self.labels, 1)):
            for path in walk_files(root / folder):
                same, file = rows.get(stem(path), []), f"{folder}/{path}"
                if same and not same[0][position] and file not in same[0]:
                    same[0] = (file, same[0][1]) if position == 0 else (same[0][0], file)

    def _from_index(self, index: Path) -> list[Pair]:
        if not index.is_file():
            raise UserError(f"Expected the index {index}, which does not exist; check index=.")
        try:
            return self._rows(index)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"Expected a CSV file in UTF-8 in {index}, but it cannot be read: {error}.") from None

    def _rows(self, index: Path) -> list[Pair]:
        with open(index, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            if not {"rgb", "depth"} <= set(names):
                raise UserError(f"Expected columns rgb and depth in {index}, but it has {reader.fieldnames}.")
            if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
                raise UserError(f"Expected every column of {index} once, but {', '.join(repeated)} is there again.")
            rows = []
            for row in reader:
                filled = {
                    name: value.strip() for name, value in row.items() if isinstance(value, str) and value.strip()
                }
                if filled.get("kind", "pair") == "pair":
                    rows.append(self._pair(filled, where=f"{index}, line {reader.line_num}"))
        if rows and _swapped(self.folder / rows[0].image, self.folder / rows[0].label):
            raise UserError(
                f"In {index} the column rgb names depth maps and depth photographs; exchange the two headings."
            )
        if rows and not (self.folder / rows[0].image).exists() and (index.parent / rows[0].image).exists():
            raise UserError(f"The paths in {index} are not below root={self.root}; give root={index.parent}.")
        return rows

    def _pair(self, row: Mapping[str, str], *, where: str) -> Pair:
        try:
            quantity = {"z_depth": "depth"}.get(kind := row.get("depth_kind", self.quantity), kind)
            if quantity not in QUANTITIES:
                raise ValueError(f"depth_kind {kind!r} is neither z_depth nor disparity")
            scale = float(row["depth_scale"]) if "depth_scale" in row else self.scale
            marks = [mark for mark in map(_whole, filter(None, row.get("invalid_value", "").split(";"))) if mark]
            if len(marks) > 1:
                raise ValueError(f"invalid_value names {marks}, but only one value beside 0 can be kept")
            meta = self._meta(quantity, scale, _unit(row.get("depth_units")), marks[0] if marks else self.invalid)
            meta["camera"] = _camera(row)
        except ValueError as error:
            raise UserError(f"{where} cannot be read: {error}.") from None
        meta["licence"] = row.get("dataset_licence")
        others = {name: value for name, value in row.items() if name and name not in COLUMNS}
        meta |= {f"column_{name}" if name in TAKEN else name: value for name, value in others.items()}
        image = row.get("rgb", "")
        name = row.get("id") or stem(image) or where.rpartition(", ")[2]
        return Pair(make_key(name), name, image, row.get("depth", ""), True, meta)


def _swapped(image: Path, label: Path) -> bool:
    """Whether a photograph stands where a depth map should, and the reverse."""
    return image.is_file() and label.is_file() and bool(holds_depth(image)) and holds_depth(label) is False


def _unit(text: str | None) -> str | None:
    return text if text in ("m", "px", None) else "unknown"


def _whole(text: str) -> int:
    number = float(text)  # 65535.0 is how pandas writes a column with gaps
    if not number.is_integer():
        raise ValueError(f"invalid_value {text!r} is no whole number")
    return int(number)


def _camera(row: Mapping[str, str]) -> dict[str, float] | None:
    """The camera that a row states, None if it states none; fx alone is that of square pixels.

    Raises:
        ValueError: its numbers cannot be those of a camera.
    """
    camera = {name: float(row[name]) for name in ("fx", "fy", "cx", "cy") if name in row}
    if not camera:
        return None
    fx = camera.get("fx", 0.0)
    camera = {"fx": fx, "fy": fx, **camera}
    if not all(map(math.isfinite, camera.values())) or min(camera["fx"], camera["fy"]) <= 0:
        raise ValueError(f"fx and fy must be above 0, and cx and cy finite, but the camera is {camera}")
    return camera
