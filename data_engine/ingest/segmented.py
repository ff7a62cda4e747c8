"""What every raw data set with classes shares: from the codes in its label files to one map of classes a sample."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_engine.ingest.base import RawSample, make_key, read_file
from data_engine.ingest.labelled import Item, PairedSet
from depth_anything_train.data.images import decode_image, read_header
from depth_anything_train.data.labels import read_grey_png
from depth_anything_train.data.schema import CLASSES, META, NO_CLASS, SEGMENTED, BadSample
from depth_anything_train.ops.png import encode_png

_UNKNOWN = -1


class SegmentedSet(PairedSet):
    """A raw data set with a class for every pixel: a subclass says how to `find` items and what their `codes` mean."""

    kind = SEGMENTED
    CLASS_NAMES: ClassVar[tuple[str, ...]]
    """What the classes 0, 1, ... are called."""

    @abstractmethod
    def codes(self) -> Mapping[int, int]:
        """Code in a label file -> class, or `NO_CLASS` where its pixels are neither trained on nor judged."""

    def sample(self, root: Path, item: Item, facts: dict[str, Any]) -> RawSample:
        """Read and check one item; the image's bytes stay, the label is written in classes.

        Raises:
            BadSample: `label_size`, `no_valid_pixel` if no pixel has a class, `unknown_class`, or as the decoders.
        """
        image = read_file(root / item.image)
        extension, shape = read_header(image).extension, decode_image(image).shape[:2]
        stored = read_grey_png(read_file(root / item.label), bits=8, what="label")
        if stored.shape != shape:
            sizes = f"{stored.shape[1]} x {stored.shape[0]} pixels, its image {shape[1]} x {shape[0]}"
            raise BadSample("label_size", f"The label has {sizes}; expected the same.")
        table = np.full(256, _UNKNOWN, np.int16)
        table[list(self.codes())] = list(self.codes().values())
        classes = table[stored]
        if (classes == _UNKNOWN).any():
            code = stored[classes == _UNKNOWN][0]
            raise BadSample("unknown_class", f"The label holds the code {code}, which is none of {self.source}.")
        if (classes == NO_CLASS).all():
            raise BadSample("no_valid_pixel", "No pixel of the label has a class.")
        meta = json.dumps({"kind": SEGMENTED, **facts}, sort_keys=True).encode()
        members = {extension: image, CLASSES: encode_png(classes.astype(np.uint8)), META: meta}
        return RawSample(make_key(item.name), members)

    def info(self) -> dict[str, Any]:
        """The names of the classes, and the settings that change what is written."""
        return {**super().info(), "classes": list(self.CLASS_NAMES)}
