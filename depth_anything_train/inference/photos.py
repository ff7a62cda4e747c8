"""Many photographs through a model: decoded and written beside it, in batches of one size, in bounded memory."""

from __future__ import annotations

import errno
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.files import remove_leftovers, require_short_names
from depth_anything_train.inference.calibration import Points, calibrate
from depth_anything_train.inference.exif import stated_focal
from depth_anything_train.inference.outputs import Outputs
from depth_anything_train.inference.prediction import PhotoPredictor, Prediction, load_image
from depth_anything_train.inference.sources import Photos
from depth_anything_train.ops.finite import check_finite
from depth_anything_train.parallel import map_ahead
from depth_anything_train.runtime import UserError, console
from depth_anything_train.types import Image

WAITING_BYTES = 500_000_000
"""The most that photographs take, decoded and prepared, while batches fill up."""


@dataclass(frozen=True)
class _Photo:
    """A decoded photograph, RGB (H, W, 3), and what the model's `prepare` made of it.

    `focal_px` is of its camera, in its own pixels, by the user or by its EXIF, where either states it; `points` were
    measured in it, if they are to count.
    """

    file: Path
    target: Path
    image: NDArray[np.uint8]
    prepared: Image | NDArray[np.uint8]
    focal_px: float | None
    points: Points | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.image.nbytes + (0 if self.prepared is self.image else self.prepared.nbytes)

    @property
    def group(self) -> tuple[int, ...]:
        """Photographs of one group can go through the model together."""
        return tuple(self.prepared.shape)


@dataclass(frozen=True)
class _PhotoIO:
    """What threads do before and after the network: files to what it sees, and what it states to files.

    Both return a sentence instead where a photograph is left out.
    """

    model: PhotoPredictor
    folder: Path
    out: Path
    outputs: Outputs
    size: int | None
    fast: bool
    measured: Mapping[str, Points] | None

    def decode(self, photo: tuple[Path, str]) -> _Photo | str:
        file, name = photo
        points = None if self.measured is None else self.measured.get(str(file.relative_to(self.folder)))
        if self.measured is not None and points is None:
            return f"{file}: no point of it was measured."
        try:
            require_short_names(self.outputs.paths(self.out / name))
            image = load_image(file)
            focal_px = self.outputs.focal_px(*image.shape[:2]) or stated_focal(file)
            self.model.check_camera(focal_px)
            prepared = self.model.prepare(image, self.size, fast=self.fast)
            return _Photo(file, self.out / name, image, prepared, focal_px, points)
        except UserError as error:
            return f"{file}: {error}"

    def write(self, photo: _Photo, values: NDArray[np.float32]) -> str | None:
        values = self.model.to_camera(values, photo.focal_px, photo.image.shape)
        try:
            check_finite(values)
            prediction = Prediction(values, self.model.kind, self.model.max_depth_m).resized(*photo.image.shape[:2])
            if photo.points is not None:
                prediction = _in_metres(prediction, photo.points, photo.file)
            self.outputs.write(photo.target, photo.image, prediction, photo.focal_px)
        except UserError as error:
            return f"{photo.file}: {error}"
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return f"{photo.file}: its outputs' paths are too long; name another out, or rename it."
        return None


def predict_photos(
    model: PhotoPredictor,
    photos: Photos,
    out: Path,
    outputs: Outputs,
    *,
    size: int | None = None,
    batch_size: int = 8,
    workers: int = 4,
    fast: bool = False,
    measured: Mapping[str, Points] | None = None,
) -> Iterator[str | None]:
    """Predict every photograph and write its outputs below `out`; yields once for each.

    None for one that is written, else a sentence that says which was left out and why.

    Args:
        model: what predicts.
        photos: where they are, and what their outputs are called.
        out: folder for the outputs.
        outputs: what is written.
        size: shorter side in pixels for the network; the size it was trained at by default.
        batch_size: how many go through the network together, if they look alike to it.
        workers: threads that decode, prepare and write beside the model.
        fast: prepare in 8 bits (`preprocess.prepare`).
        measured: points of photographs, by their paths below the folder, that bring them to metres; one without is left
            out.

    Raises:
        UserError: the network cannot take `size`.
        OSError: an output cannot be written.
    """
    model.check_size(size)
    for folder in {(out / name).parent for _, name in photos}:
        remove_leftovers(folder)
    photo_io = _PhotoIO(model, photos.folder, out, outputs, size, fast, measured)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        writing: deque[Future[str | None]] = deque()
        for found in _together(map_ahead(pool, photo_io.decode, photos, 2 * workers), batch_size):
            if isinstance(found, str):
                yield found
                continue
            try:
                maps = model.forward_prepared([photo.prepared for photo in found], size)
            except UserError as error:  # MiDaS sees only here whether it can take a photograph
                yield from (f"{photo.file}: {error}" for photo in found)
                continue
            for photo, values in zip(found, maps, strict=True):
                writing.append(pool.submit(photo_io.write, photo, values))
            while len(writing) > workers:
                yield writing.popleft().result()
        for written in writing:
            yield written.result()


def _in_metres(prediction: Prediction, points: Points, file: Path) -> Prediction:
    """By the points measured in it; says how well they fit."""
    calibration = calibrate(prediction, points)
    fit = f"metres by {len(points)} measured points, which are {calibration.error:.1%} off in the median"
    console.print(f"{file}: {fit}", soft_wrap=True)
    return calibration(prediction)


def _together(decoded: Iterable[_Photo | str], batch_size: int) -> Iterator[list[_Photo] | str]:
    """Lists of up to `batch_size` photographs of one group, and what is no photograph as it comes."""
    waiting: dict[tuple[int, ...], list[_Photo]] = defaultdict(list)
    held = 0
    for photo in decoded:
        if isinstance(photo, str):
            yield photo
            continue
        waiting[photo.group].append(photo)
        held += photo.nbytes
        largest = max(waiting, key=lambda group: len(waiting[group]))
        if len(waiting[largest]) >= batch_size or held > WAITING_BYTES:
            ready = waiting.pop(largest)
            held -= sum(photo.nbytes for photo in ready)
            yield ready
    yield from waiting.values()
