"""Files of raw data sets beside their labels: cameras, published lists of frames, MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from depth_anything_train.data.schema import BadSample
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError, import_extra


def pinhole(matrix: Sequence[Sequence[float]] | NDArray[Any], *, first_pixel: float = 0.0) -> dict[str, float]:
    """`camera` as the json of a sample has it: fx, fy, cx, cy in pixels, the centre of the first pixel at (0, 0).

    Args:
        matrix: camera matrix of 3 x 3, or projection of 3 x 4.
        first_pixel: where the set itself puts the centre of the first pixel: 0, 0.5 (COLMAP) or 1 (MATLAB).
    """
    (fx, _, cx), (_, fy, cy) = (row[:3] for row in matrix[:2])
    return {"fx": float(fx), "fy": float(fy), "cx": float(cx) - first_pixel, "cy": float(cy) - first_pixel}


def require_file(path: Path, *, what: str) -> Path:
    """Return `path` as a file that exists.

    Raises:
        UserError: it does not; `what` names its role in the message.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"Expected {what} in {path}, which does not exist; check the path.")
    return path


def read_lines(path: Path, *, what: str) -> list[str]:
    """Lines of a published list that hold anything.

    Raises:
        UserError: the list is missing or no text.
    """
    try:
        lines = require_file(path, what=what).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"Expected {what} as a text file in {path}, but it is none; download it again.") from None
    return [line for line in lines if line.strip()]


def read_mat(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file of version 5 to 7: structs as dicts, cells as arrays of objects.

    Raises:
        BadSample: `unreadable_file`, `damaged_mat`.
    """
    scipy_io = import_extra("scipy.io", extra="ingest")
    data = read_file(path)
    try:
        return scipy_io.loadmat(io.BytesIO(data), simplify_cells=True)
    except Exception as error:  # SciPy parses trustingly: damage shows as almost any error
        raise BadSample("damaged_mat", f"{path.name} is no sound MATLAB file: {error}.") from None


def read_split(path: Path, variable: str, *, what: str) -> list[Any]:
    """What a published split in MATLAB's format holds under one name.

    Raises:
        UserError: the file is missing, damaged or another one; `what` names its role in the message.
    """
    content = read_mat(require_file(path, what=what))
    if variable not in content:
        raise UserError(f"Expected {what} in {path}, but it holds no {variable}; download it again.")
    values: list[Any] = np.ravel(content[variable]).tolist()
    return values


@contextmanager
def open_mat73(path: Path) -> Iterator[Any]:
    """A MATLAB file of version 7.3, which is HDF5 with the axes of every array reversed.

    Raises:
        BadSample: `damaged_mat` if it, or what is read of it, is damaged or missing.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, IndexError, TypeError) as error:
        raise BadSample("damaged_mat", f"{path.name} cannot be read: {error}.") from None


def encode_rgb(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of an image (H, W, 3) that a set holds as an array.

    Raises:
        BadSample: `image_type` if it is no such array.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        came = f"{pixels.dtype} of shape {pixels.shape}"
        raise BadSample("image_type", f"Expected an image of 8 bits and 3 channels, but got {came}.")
    return encode_png(pixels)
