"""Files of raw data sets in their real formats, in miniature, and what `prepare` made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import SKY, Record

HEIGHT, WIDTH = 6, 8


def ramp(first: float, last: float, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float32]:
    """Values that differ everywhere, row by row, so that a flip or a transposition shows."""
    return np.linspace(first, last, height * width, dtype=np.float32).reshape(height, width)


def write_image(path: Path, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A JPEG or PNG by the suffix; pictures at different paths differ."""
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (height, width, 3), np.uint8)
    return write(path, cv2.imencode(path.suffix, pixels)[1].tobytes())


def write_png(path: Path, codes: NDArray[Any]) -> bytes:
    """uint16 or uint8 grey."""
    return write(path, cv2.imencode(".png", codes)[1].tobytes())


def write_npy(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def write_pfm(path: Path, values: NDArray[np.float32]) -> bytes:
    """Little-endian, rows from the bottom up."""
    return write(path, b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes())


def write_exr(path: Path, **channels: NDArray[np.float32]) -> None:
    import OpenEXR

    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))


def write_h5(path: Path, **datasets: NDArray[Any]) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


def write(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def cut(path: Path) -> None:
    """Leave the first half of a file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@dataclass(frozen=True)
class Prepared:
    """What the command wrote: the content of dataset.json, and every sample by its key."""

    info: dict[str, Any]
    samples: dict[str, Record]

    def depth(self, key: str) -> NDArray[np.float32]:
        """Depth in the label's unit, NaN where invalid."""
        disparity = self.disparity(key)
        return np.divide(1, disparity, out=np.full_like(disparity, np.nan), where=disparity > 0)

    def disparity(self, key: str) -> NDArray[np.float32]:
        """What training reads, NaN where invalid."""
        record = self.samples[key]
        disparity, valid = decode_label(*record.label(), record.meta)
        return np.where(valid, disparity, np.nan)

    def sky(self, key: str) -> NDArray[np.bool_]:
        data = np.frombuffer(self.samples[key].members[SKY], np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED) != 0


PrepareSet = Callable[..., Prepared]
"""The fixture `prepare_set(NAME, root, "key=value", ...)`."""
