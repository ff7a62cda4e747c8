"""Raw depth maps of any format, to 16-bit PNG as it is (which `packing` may follow), or float32 npy."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from depth_anything_train.data.images import MAX_PIXELS
from depth_anything_train.data.labels import label_header, read_npy, read_png16
from depth_anything_train.data.schema import IMAGE_EXTENSIONS, BadSample
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import import_extra

LABEL_FILES = ("png", "npy", "pfm", "exr")

_PFM_HEADER = re.compile(rb"(P[Ff])\s+([0-9]{1,6})\s+([0-9]{1,6})\s+([-+.0-9eE]+)\s")


@dataclass(frozen=True)
class RawLabel:
    """One label as a shard holds it. Physical values stay: physical = stored / scale, invalid pixels are marked.

    Attributes:
        quantity: `depth` (along the optical axis) or `disparity` (larger is nearer).
        codec: `png` (16 bits) or `npy` (float32).
        data: the member's bytes.
        scale: stored value / scale is in `unit`.
        unit: `m`, `px` or `unknown`.
        invalid: a stored value beside 0 that marks no measurement; zero, negative and not finite values always do.
        sky: (H, W) bool where the set itself says so, else None. Those pixels must be invalid in the label.
        notes: anything worth counting that did not stop the sample.
    """

    quantity: str
    codec: str
    data: bytes
    scale: float = 1.0
    unit: str = "m"
    invalid: int | None = None
    sky: NDArray[np.bool_] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_array(
        cls, values: NDArray[Any], *, quantity: str = "depth", unit: str = "m", sky: NDArray[np.bool_] | None = None
    ) -> RawLabel:
        """A label from physical values (H, W); what is not measured must be 0, negative or not finite."""
        if sky is not None:
            values = np.where(sky, 0, values)
        return cls(quantity, "npy", to_npy(values), unit=unit, sky=sky, notes=count_odd(values))

    @classmethod
    def from_codes(
        cls, codes: NDArray[np.uint16], *, scale: float, quantity: str = "depth", unit: str = "m"
    ) -> RawLabel:
        """A label from 16-bit codes (H, W): physical = code / scale, and 0 is not measured."""
        return cls(quantity, "png", encode_png(codes), scale=scale, unit=unit)


def read_label_file(path: Path) -> tuple[str, bytes, dict[str, int]]:
    """Codec, bytes and notes of a label file: PNG as it is, npy, PFM and OpenEXR as float32 npy.

    Raises:
        BadSample: `label_type`, `damaged_label`, `unreadable_file`.
    """
    extension = path.suffix.lower().removeprefix(".")
    if extension not in LABEL_FILES:
        raise BadSample("label_type", f"Expected a label of type {', '.join(LABEL_FILES)}, but got {path.name}.")
    if extension == "exr":
        stored = read_exr(path)
        return "npy", to_npy(stored), count_odd(stored)
    data = read_file(path)
    if extension == "png":
        read_png16(data)
        return "png", data, {}
    stored = read_pfm(data) if extension == "pfm" else read_npy(data)
    as_it_is = extension == "npy" and stored.dtype == np.dtype("<f4")
    return "npy", data if as_it_is else to_npy(stored), count_odd(stored)


def holds_depth(path: Path) -> bool | None:
    """Whether a file holds a depth map rather than a photograph, by its type alone; None where that says neither."""
    extension = path.suffix.lower().removeprefix(".")
    if extension != "png":
        return True if extension in LABEL_FILES else False if extension in IMAGE_EXTENSIONS else None
    with open(path, "rb") as file:
        header = file.read(26)
    if len(header) < 26:
        return None
    bits, is_grey = header[24], header[25] == 0
    return None if is_grey and bits < 16 else is_grey


def count_odd(stored: NDArray[Any]) -> dict[str, int]:
    """Number of negative and of not finite pixels, where there are any."""
    counts = {"negative_pixels": int((stored < 0).sum()), "not_finite_pixels": int((~np.isfinite(stored)).sum())}
    return {name: count for name, count in counts.items() if count}


def to_npy(stored: NDArray[Any]) -> bytes:
    """float32 .npy bytes of an array (H, W)."""
    file = io.BytesIO()
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which is invalid
        np.save(file, np.ascontiguousarray(stored, dtype="<f4"), allow_pickle=False)
    return file.getvalue()


def read_pfm(data: bytes) -> NDArray[np.float32]:
    """Read a one-channel PFM: rows from the bottom up, byte order by the sign of the header's third number.

    Raises:
        BadSample: `label_type` for colour or anything that is no PFM, `damaged_label` if bytes are missing.
    """
    header = _PFM_HEADER.match(data)
    if header is None or header[1] != b"Pf":
        raise BadSample("label_type", f"Expected a one-channel PFM (Pf) as label, but got {data[:8]!r}.")
    width, height = int(header[2]), int(header[3])
    order = "<" if header[4].startswith(b"-") else ">"
    if not width * height or len(data) - header.end() != 4 * width * height:
        raise BadSample("damaged_label", f"The PFM label of {width} x {height} pixels has a wrong number of bytes.")
    return np.flipud(np.frombuffer(data, f"{order}f4", offset=header.end()).reshape(height, width))


def read_exr(path: Path) -> NDArray[np.float32]:
    """Read an OpenEXR file of one channel, (H, W).

    Raises:
        BadSample: `unreadable_file`, `damaged_label`, or `label_type` if there are more channels or too many pixels.
    """
    exr = import_extra("OpenEXR", extra="ingest")
    if not path.is_file():
        raise BadSample("unreadable_file", f"{path.name} cannot be read: no such file.")
    try:
        header = exr.File(str(path), header_only=True).header()
        first, last = header["dataWindow"]
        width, height = (int(side) for side in last - first + 1)
        is_label = len(header["channels"]) == 1 and width * height <= MAX_PIXELS
        channels = exr.File(str(path), separate_channels=True).channels() if is_label else {}
    except (RuntimeError, ValueError):
        raise BadSample("damaged_label", f"{path.name} is damaged or no OpenEXR file.") from None
    if not is_label:
        came = f"{len(header['channels'])} of {width} x {height} pixels"
        raise BadSample("label_type", f"Expected an OpenEXR label of one channel, but got {came}.")
    (channel,) = channels.values()
    return channel.pixels.astype(np.float32)


def read_h5(path: Path, name: str) -> NDArray[Any]:
    """Read the two-dimensional data set `name` of an HDF5 file.

    Raises:
        BadSample: `unreadable_file`, `damaged_label`, or `label_type` if it is not there or of another kind.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = file.get(name)
            if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.dtype.kind not in "fiu":
                raise BadSample("label_type", f"Expected numbers (H, W) as {name!r}, but {path.name} has none.")
            if not 0 < stored.size <= MAX_PIXELS:
                raise BadSample("label_type", f"Expected 1 to {MAX_PIXELS:,} pixels, but got {stored.size:,}.")
            return stored[:]
    except FileNotFoundError:
        raise BadSample("unreadable_file", f"{path.name} cannot be read: no such file.") from None
    except (OSError, RuntimeError):
        raise BadSample("damaged_label", f"{path.name} is damaged or no HDF5 file.") from None


def read_grey8(path: Path) -> NDArray[np.uint8]:
    """Read a PNG of 8 bits as grey (H, W): a mask, a confidence, a coarse label.

    Raises:
        BadSample: `unreadable_file`, `label_type` if it is no PNG of 8 bits, `damaged_label`.
    """
    data = read_file(path)
    if label_header(data, what="label").extension != "png" or data[24] > 8:
        raise BadSample("label_type", f"Expected a PNG of 8 bits, but {path.name} is none.")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if values is None:
        raise BadSample("damaged_label", f"{path.name} cannot be decoded; it is damaged.")
    return values  # type: ignore[return-value]


def keep_valid(codes: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Codes (H, W) with 0 where they are not valid.

    Raises:
        BadSample: `mask_size` if the two differ in size.
    """
    if codes.shape != valid.shape:
        raise BadSample("mask_size", f"Expected a mask of the label's {codes.shape}, but got {valid.shape}.")
    return np.where(valid, codes, np.uint16(0))
