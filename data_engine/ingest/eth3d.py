"""ETH3D: photographs of a mirror reflex camera with the depth of a laser scanner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.images import read_header
from depth_anything_train.data.schema import BadSample

CALIBRATION = "dslr_calibration_jpg"


@dataclass(frozen=True)
class Eth3d(LabelledSet):
    """ETH3D, high-resolution multi-view training scenes, 454 photographs of 13 scenes, https://www.eth3d.net.

    root/courtyard/images/dslr_images/DSC_0286.JPG                  multi_view_training_dslr_jpg.7z
    root/courtyard/dslr_calibration_jpg/cameras.txt                 and images.txt; the same archive
    root/courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG      courtyard_dslr_depth.7z; no JPEG despite its name
    and every other scene in the same way, all archives unpacked into one root.

    Licence: CC BY-NC-SA 4.0. The label is the depth along the optical axis in metres for the photograph as it was
    taken, with its distortion (not for the undistorted ones): float32 of the photograph's size without a header,
    infinite where the scanner saw nothing, which are most pixels. What the owners mask in their images is already
    infinite. The camera in the json has the four numbers of a pinhole, and `camera_model` and `distortion` beside it
    as COLMAP names them; `cx`, `cy` count from the centre of the first pixel. A photograph has 24 million pixels and
    its label 97 MB: samples_per_shard=10 gives shards of 1 GB, some 50 GB in all.

    Args:
        root, part, count, seed: as in `LabelledSet`.
    """

    source = "eth3d"
    licence = "CC BY-NC-SA 4.0"

    def find(self, root: Path) -> Iterator[Item]:
        """Photographs and depth maps of all scenes."""
        images = find_names(root, "*/images/dslr_images/*.JPG")
        for item in pair_up(images, find_names(root, "*/ground_truth_depth/dslr_images/*.JPG")):
            yield item._replace(extra=(f"{item.name.partition('/')[0]}/{CALIBRATION}",))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy with 0 where it was infinite."""
        image = read_file(root / item.image)
        header = read_header(image)
        depth_m = read_depth(read_file(root / item.label), header.height, header.width)
        label = RawLabel.from_array(np.where(np.isfinite(depth_m), depth_m, 0))
        return RawPair(image, label, read_camera(root / item.extra[0], Path(item.image).name))


def read_depth(data: bytes, height: int, width: int) -> NDArray[np.float32]:
    """Depth in metres (H, W) of a file that holds nothing but its rows.

    Raises:
        BadSample: `label_size`.
    """
    if len(data) != 4 * height * width:
        wanted = f"{4 * height * width:,} bytes of depth for a photograph of {width} x {height}"
        raise BadSample("label_size", f"Expected {wanted}, but got {len(data):,}.")
    return np.frombuffer(data, "<f4").reshape(height, width)


def read_camera(calibration: Path, photograph: str) -> dict[str, Any]:
    """`camera`, `camera_model` and `distortion` of a photograph, out of COLMAP's cameras.txt and images.txt.

    Raises:
        BadSample: `unreadable_file`, or `damaged_calibration` if the photograph or its camera is not in them.
    """
    images, cameras = (_rows(read_file(calibration / name)) for name in ("images.txt", "cameras.txt"))
    try:
        number = next(words[8] for words in images[::2] if words[9].rpartition("/")[2] == photograph)
        model, numbers = next((words[1], words[4:]) for words in cameras if words[0] == number)
        fx, fy, cx, cy, *distortion = map(float, numbers)
    except (StopIteration, IndexError, ValueError):
        message = f"Expected {photograph} and its camera in {CALIBRATION}/; unpack it again."
        raise BadSample("damaged_calibration", message) from None
    camera = pinhole([[fx, 0, cx], [0, fy, cy]], first_pixel=0.5)
    return {"camera": camera, "camera_model": model, "distortion": distortion}


def _rows(text: bytes) -> list[list[str]]:
    """Words of every line but comments. images.txt has two lines an image: the second holds its points, or nothing."""
    lines = text.decode("utf-8", "replace").rstrip().split("\n")
    return [line.split() for line in lines if not line.startswith("#")]
