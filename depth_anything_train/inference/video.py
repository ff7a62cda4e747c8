"""Make a video of a video's disparity: frame by frame at the same times, with its sound, in constant memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.files import atomic_writer, remove_leftovers, require_short_names
from depth_anything_train.inference.outputs import DEFAULT_VIDEO_OUTPUTS, VIDEO_OUTPUTS, Outputs, PictureLimits
from depth_anything_train.inference.prediction import PhotoPredictor, Prediction
from depth_anything_train.inference.sources import as_video
from depth_anything_train.inference.temporal import TemporalAlignment
from depth_anything_train.inference.video_files import Frame, VideoReader, VideoWriter, video_writer
from depth_anything_train.ops.finite import check_finite
from depth_anything_train.runtime import UserError, require_count

COLOR = Outputs(DEFAULT_VIDEO_OUTPUTS)


def predict_video(
    model: PhotoPredictor,
    source: VideoReader | str | Path,
    out: str | Path,
    *,
    outputs: Outputs = COLOR,
    size: int | None = None,
    temporal: bool = True,
    batch_size: int = 4,
    limit: int | None = None,
    on_frame: Callable[[int, int | None], None] | None = None,
) -> list[Path]:
    """Predict every frame and write OUT_color.mp4 and so on, each file whole or not at all; returns their paths.

    Pictures have the frames' size, made even; their times, durations and sound are the video's. OUT.npy holds what the
    model states for every frame, float32 (T, h, w) at the network's resolution; with `temporal` it is aligned, too.
    Ctrl-C ends a camera or stream, and what there is so far is kept; with a file nothing is.

    Args:
        model: what predicts.
        source: a file, the address of a stream, or a reader, which then says what was damaged.
        out: path without extension; its folder is made.
        outputs: some of `VIDEO_OUTPUTS`, and how they look.
        size: shorter side in pixels for the network; the size it was trained at by default.
        temporal: bring each frame to the scale and shift of the one before it, and hold the colours (`temporal.py`).
        batch_size: frames that go through the network together.
        limit: stop after so many frames.
        on_frame: called with the number of frames done, and of all if it is known, whenever a batch is written.

    Raises:
        UserError: the video cannot be opened or holds no sound frame, an output is not for videos, a number is below 1,
            the model states NaN or infinity, or PyAV is not installed.
    """
    if unfit := [name for name in outputs.names if name not in VIDEO_OUTPUTS]:
        raise UserError(f"Expected outputs of a video out of {', '.join(VIDEO_OUTPUTS)}, but got {', '.join(unfit)}.")
    if outputs.pointcloud is not None:
        raise UserError("Expected photographs for point clouds, but got a video; leave pointcloud out.")
    require_count("batch_size", batch_size)
    if limit is not None:
        require_count("limit", limit)
    out = Path(out).expanduser()
    remove_leftovers(out.parent, out.name)
    alignment = TemporalAlignment(outputs.percentile) if temporal else None
    done = 0
    with contextlib.ExitStack() as stack:
        reader = source if isinstance(source, VideoReader) else stack.enter_context(VideoReader(as_video(source)))
        files = _Files(out, outputs, reader, stack)
        frames = islice(reader.frames(files.write_sound), limit)
        try:
            while together := list(islice(frames, batch_size)):
                focals_px = [outputs.focal_px(*frame.image.shape[:2]) for frame in together]
                maps = model.forward([frame.image for frame in together], size, focals_px)
                for frame, values in zip(together, maps, strict=True):
                    check_finite(values)
                    prediction = Prediction(values, model.kind)
                    if alignment is not None:
                        prediction = alignment(prediction)
                    files.write(frame, prediction, None if alignment is None else alignment.limits)
                done += len(together)
                if on_frame is not None:
                    on_frame(done, reader.count)
        except KeyboardInterrupt:
            if not (reader.live and done):
                raise
    return files.paths


class _Files:
    """The outputs of one video, open for writing; `stack` closes them."""

    def __init__(self, out: Path, outputs: Outputs, reader: VideoReader, stack: contextlib.ExitStack) -> None:
        self.outputs, self._reader = outputs, reader
        endings = (".npy" if name == "npy" else f"_{name}.mp4" for name in outputs.names)
        self.paths = [out.with_name(out.name + ending) for ending in endings]
        self._videos: dict[str, VideoWriter] = {}
        self._array: ArrayWriter | None = None
        require_short_names(self.paths)
        for name, path in zip(outputs.names, self.paths, strict=True):
            if name == "npy":
                self._array = stack.enter_context(array_writer(path))
            else:
                width = reader.width * (2 if name == "side_by_side" else 1)
                writer = video_writer(path, reader, reader.height, width)
                self._videos[name] = stack.enter_context(writer)

    def write(self, frame: Frame, prediction: Prediction, limits: PictureLimits | None) -> None:
        if self._array is not None:
            self._array.append(prediction.values)
        if self._videos:
            full = prediction.resized(*frame.image.shape[:2])
            pictures = self.outputs.pictures(frame.image, full, limits)
            for name, writer in self._videos.items():
                writer.write(pictures[name], frame)

    def write_sound(self, sound: Any) -> None:
        if not all([writer.write_sound(sound) for writer in self._videos.values()]):
            self._reader.damaged += 1


class ArrayWriter:
    """A .npy of float32 (T, ...) that grows along its first axis."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shape: tuple[int, ...] = (0, 0, 0)

    def append(self, values: NDArray[np.float32]) -> None:
        """One more entry; all have one shape."""
        if self._shape[0] == 0:
            self._shape = (0, *values.shape)
            self._write_header()
        self._file.write(np.ascontiguousarray(values, "<f4").data)
        self._shape = (self._shape[0] + 1, *self._shape[1:])

    def finish(self) -> None:
        """Say in the header how many there are; numpy leaves room there for a first axis of any length."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextlib.contextmanager
def array_writer(path: Path) -> Iterator[ArrayWriter]:
    """A writer whose file takes its name when it is whole; on an error nothing is left."""
    with atomic_writer(path) as file:
        writer = ArrayWriter(file)
        yield writer
        writer.finish()
