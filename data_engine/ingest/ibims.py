"""iBims-1: a hundred indoor scenes with the depth of a laser scanner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names
from data_engine.ingest.raw_files import encode_rgb, pinhole, read_mat
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.schema import BadSample

FIELDS = ("rgb", "depth", "mask_invalid", "mask_transp", "calib")


@dataclass(frozen=True)
class Ibims(LabelledSet):
    """iBims-1 (independent Benchmark images and matched scans), 100 images, https://www.asg.ed.tum.de/lmf/ibims1.

    root/ibims1_core_mat/corridor_01.mat        ("iBims-1 core dataset" as .mat, ibims1_core_mat.zip)

    Licence: as on that page. The label is the depth along the optical axis in metres, 640 x 480. As in the
    owners' evaluation it is invalid where it is 0, and where one of their two masks is 0: `mask_invalid` (no sound
    measurement) and `mask_transp` (glass and other transparent things). Images are arrays in the file and become PNG.
    The camera counts pixels from 1 there, and from 0 here.

    Args:
        root, part, count, seed: as in `LabelledSet`.
    """

    source = "ibims1"
    licence = "see https://www.asg.ed.tum.de/lmf/ibims1"

    def find(self, root: Path) -> Iterator[Item]:
        """The .mat files: each holds image and label."""
        for name, path in find_names(root, "ibims1_core_mat/*.mat").items():
            yield Item(name, path, path)

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as PNG, depth as float32 npy.

        Raises:
            BadSample: `unreadable_file`, `damaged_mat`, `mask_size`.
        """
        content = read_mat(root / item.label).get("data")
        if not isinstance(content, dict) or not content.keys() >= set(FIELDS):
            raise BadSample("damaged_mat", f"Expected a struct `data` with {', '.join(FIELDS)} in {item.label}.")
        pixels, depth_m, sound, opaque, calibration = (np.asarray(content[name]) for name in FIELDS)
        if not depth_m.shape == sound.shape == opaque.shape:
            shapes = f"{depth_m.shape}, {sound.shape} and {opaque.shape}"
            raise BadSample("mask_size", f"Expected depth and masks of one size, but got {shapes}.")
        label = RawLabel.from_array(np.where((sound != 0) & (opaque != 0), depth_m, 0))
        return RawPair(encode_rgb(pixels), label, {"camera": pinhole(calibration.T, first_pixel=1)})
