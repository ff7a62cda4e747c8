"""MPI Sintel: frames of an animated film with the depth of its renderer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.schema import BadSample

TAG = 202021.25
"""First number of every binary file of the set; it shows the byte order."""

_DPT_HEADER = struct.Struct("<fii")  # tag, width, height
_CAM = struct.Struct("<f21d")  # tag, intrinsics (3 x 3), extrinsics (3 x 4)


@dataclass(frozen=True)
class Sintel(LabelledSet):
    """MPI Sintel, 1,064 frames of 23 scenes, http://sintel.is.tue.mpg.de.

    root/training/final/alley_1/frame_0001.png               "training images" (MPI-Sintel-training_images.zip)
    root/training/clean/alley_1/frame_0001.png               the same archive
    root/training/depth/alley_1/frame_0001.dpt               "depth data" (MPI-Sintel-depth-training-20150305.zip)
    root/training/camdata_left/alley_1/frame_0001.cam        the same archive

    Licence: the film's, CC BY 3.0, (c) Blender Foundation. The label is the depth along the optical axis in metres,
    float32 (.dpt). Every pixel has one: the set's own tools mark neither invalid pixels nor the sky, which lies on a
    far background. So nothing is masked here; evaluations leave out what is 72 m away or more (`sintel`). The set's
    `invalid` images are about optical flow and are not used.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `final`, the pass with blur, fog and depth of field that papers evaluate, or `clean`, without them.
    """

    part: str = "final"

    source = "sintel"
    licence = "CC BY 3.0"
    PARTS = ("final", "clean")

    def find(self, root: Path) -> Iterator[Item]:
        """Frames of the pass and depth maps."""
        images = find_names(root, f"training/{self.part}/*/*.png")
        labels = find_names(root, "training/depth/*/*.dpt")
        for item in pair_up(images, labels):
            yield item._replace(extra=(f"training/camdata_left/{item.name}.cam",))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy, camera from its file."""
        depth_m = read_dpt(read_file(root / item.label))
        camera = pinhole(read_cam(read_file(root / item.extra[0])))
        return RawPair(read_file(root / item.image), RawLabel.from_array(depth_m), {"camera": camera})


def read_dpt(data: bytes) -> NDArray[np.float32]:
    """Depth in metres (H, W) of a .dpt file.

    Raises:
        BadSample: `label_type` if it is none, `damaged_label` if bytes are missing.
    """
    tag, width, height = _DPT_HEADER.unpack_from(data.ljust(_DPT_HEADER.size, b"\0"))
    if tag != TAG:
        raise BadSample("label_type", f"Expected a .dpt file, which starts with {TAG}, but got {data[:4]!r}.")
    if min(width, height) < 1 or len(data) - _DPT_HEADER.size != 4 * width * height:
        raise BadSample("damaged_label", f"The .dpt label of {width} x {height} pixels has a wrong number of bytes.")
    return np.frombuffer(data, "<f4", offset=_DPT_HEADER.size).reshape(height, width)


def read_cam(data: bytes) -> NDArray[np.float64]:
    """Camera matrix (3, 3) of a .cam file.

    Raises:
        BadSample: `damaged_calibration`.
    """
    if len(data) != _CAM.size or _CAM.unpack(data)[0] != TAG:
        raise BadSample("damaged_calibration", f"Expected a .cam file of {_CAM.size} bytes, but got {len(data)}.")
    return np.array(_CAM.unpack(data)[1:10]).reshape(3, 3)
