"""Reading and writing of video with PyAV: upright RGB frames, their times, and the sound beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.schema import IMAGE_EXTENSIONS
from depth_anything_train.files import atomic_writer
from depth_anything_train.inference.sources import CONTAINERS, Video
from depth_anything_train.runtime import UserError, import_extra

COPIED_AUDIO = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")
"""What players expect in an mp4; other sound is encoded again as AAC."""
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
QUALITY = {"crf": "18", "preset": "veryfast"}  # without visible loss: maps are smooth
WIDEST_PIXEL = 4
DISPLAY_MATRIX = "DISPLAYMATRIX"
BT709 = 1  # number of HD video's matrix, primaries and transfer function, each in its table of H.264
LIMITED_RANGE = 1
STATE_DURATION = ("mov", "matroska", "avi", "flv")
"""Formats with a duration in their header; of others FFmpeg concludes it from how long the file is."""
PATIENCE_S = 30.0  # with a stream that says nothing


@dataclass(frozen=True)
class Frame:
    """RGB uint8 (H, W, 3), upright, with its time and duration in units of the reader's `time_base`."""

    image: NDArray[np.uint8]
    time: int
    duration: int


class VideoReader:
    """The frames of a video, one at a time, and its sound.

    Times start at 0 for whichever of the two comes first, and grow from frame to frame. Frames are turned and mirrored
    as the file says, and stretched where its pixels are not square; if their size changes on the way, they are brought
    to that of the first. `damaged` counts what could not be decoded; where a file or stream breaks off, it ends.

    Args:
        source: where they come from.

    Raises:
        UserError: it cannot be opened or holds no sound frame, or PyAV is not installed.
    """

    def __init__(self, source: Video) -> None:
        av = import_extra("av", extra="video")
        self._error = av.error.FFmpegError
        try:
            limits: dict[str, Any] = {"timeout": PATIENCE_S} if source.live else {}
            if source.device is None and not source.live:
                limits["options"] = {"format_whitelist": CONTAINERS}
            self._container = av.open(source.address, format=source.device, metadata_errors="replace", **limits)
        except (self._error, ValueError) as error:  # the latter where PyAV was built without cameras
            reason = getattr(error, "strerror", error)
            photo = Path(source.address).suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
            hint = "; photographs are not fetched from addresses: download them first" if source.live and photo else ""
            raise UserError(f"Expected a video at {source}, but it cannot be opened: {reason}{hint}.") from None
        self.live = source.live
        self.damaged = 0
        self._end_s = 0.0  # of the last packet that was read
        self._video, self.audio = map(self._best, ("video", "audio"))
        self.copies_audio = self.audio is not None and self.audio.codec_context.codec.canonical_name in COPIED_AUDIO
        self._size: tuple[int, int] | None = None
        self._next_time = 0
        self._items = self._read() if self._video is not None else iter(())
        self._first: list[Any] = []
        for item in self._items:
            self._first.append(item)
            if isinstance(item, Frame):
                self.height, self.width = item.image.shape[:2]
                break
        else:
            self.close()
            raise UserError(f"Expected a video at {source}, but it holds no picture that can be decoded.")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file or camera."""
        self._container.close()

    @property
    def time_base(self) -> Fraction:
        """Unit of the frames' times in seconds."""
        return self._video.time_base

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average or by what the file says."""
        return self._video.average_rate or self._video.guessed_rate or Fraction(30)

    @property
    def count(self) -> int | None:
        """Number of frames, as the file says or its duration lets expect; None for a stream."""
        if self._video.frames:
            return int(self._video.frames)
        return round(self._container.duration / 1_000_000 * self.rate) if self._container.duration else None

    @property
    def missing_s(self) -> float:
        """Seconds that a file lacks at its end by its header, once all of it is read; 0 where that is unsure."""
        names = self._container.format.name.split(",")
        sure = not self.live and any(name in STATE_DURATION for name in names)
        duration_s = (self._container.duration or 0) / 1_000_000
        if "avi" in names:  # whose duration FFmpeg shortens with the file
            duration_s = float(self._video.frames / self.rate)
        missing = duration_s - self._end_s
        return missing if sure and missing > max(1.0, 0.02 * duration_s) else 0.0

    def frames(self, on_sound: Callable[[Any], None]) -> Iterator[Frame]:
        """The frames in order; `on_sound` gets what `VideoWriter.write_sound` takes, in between, as the file has it."""
        for item in itertools.chain(self._first, self._items):
            if isinstance(item, Frame):
                yield item
            else:
                on_sound(item)

    def _best(self, kind: str) -> Any:
        """The stream that players choose, or None where there is none that can be decoded."""
        stream = self._container.streams.best(kind)
        return None if stream is None or stream.codec_context is None else stream

    def _read(self) -> Iterator[Any]:
        """Frames, and packets of sound or what they decode to."""
        self._video.thread_type = "AUTO"
        for packet in self._packets():
            if packet.stream is self._video:
                yield from map(self._upright, self._decoded(packet))
            elif not self.copies_audio:
                yield from self._decoded(packet)
            elif packet.size:  # the last packet of a stream is empty, for the decoder
                yield packet

    def _packets(self) -> Iterator[Any]:
        """Packets with times that start at 0, up to the end or to where the file or stream breaks off."""
        start = self._container.start_time
        try:
            for packet in self._container.demux():  # all streams: the longest says where the file ends
                first = packet.dts if packet.pts is None else packet.pts
                if first is not None and packet.stream.type in ("video", "audio"):
                    end = (first + (packet.duration or 0)) * packet.time_base
                    # Some headers count from 0, and some from where the first stream starts.
                    self._end_s = max(self._end_s, float(end), float(end - Fraction(start or 0, 1_000_000)))
                if packet.stream not in (self._video, self.audio):
                    continue
                if first is not None:
                    start = round(first * packet.time_base * 1_000_000) if start is None else start
                    offset = round(Fraction(start, 1_000_000) / packet.time_base)
                    packet.pts = None if packet.pts is None else packet.pts - offset
                    packet.dts = None if packet.dts is None else packet.dts - offset
                yield packet
        except self._error:
            self.damaged += 1

    def _decoded(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except self._error:
            self.damaged += 1
            return []

    def _upright(self, frame: Any) -> Frame:
        self._size = self._size or (frame.height, square_width(self._video, frame.width))
        image = upright(frame, *self._size)
        usual = max(round(1 / self.rate / self.time_base), 1)
        time = self._next_time if frame.pts is None else max(frame.pts, self._next_time)
        self._next_time = time + (usual if frame.pts is None else 1)
        return Frame(image, time, frame.duration or usual)


def square_width(stream: Any, width: int) -> int:
    """How many square pixels are as wide as `width` pixels of a stream of PyAV.

    Its pixels count as square where the file says nothing about them, or what cannot be meant.
    """
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return max(round(width * aspect), 1) if 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL else width


def upright(frame: Any, height: int, width: int) -> NDArray[np.uint8]:
    """A frame of PyAV as players show it, RGB (H, W, 3): at `height` x `width`, then turned and mirrored as it says."""
    image = frame.to_ndarray(format="rgb24", height=height, width=width)
    return np.ascontiguousarray(_turned(image, frame.side_data.get(DISPLAY_MATRIX)))


def _turned(image: NDArray[np.uint8], matrix: Any) -> NDArray[np.uint8]:
    """A frame as its display matrix says, by quarter turns and mirroring: nine int32, of which a, b, c, d count.

    A point (x, y) of the frame is shown at (a x + c y, b x + d y).
    """
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    if abs(a) < abs(b):  # rows become columns
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class VideoWriter:
    """An mp4 of pictures at given times, with the sound of the video that they come from.

    Args:
        container: a container of PyAV, open for writing.
        reader: the video; the times are in its `time_base`.
        height: height of the pictures; an odd number of rows or columns gets one more, as H.264 needs it.
        width: width of the pictures.
    """

    def __init__(self, container: Any, reader: VideoReader, height: int, width: int) -> None:
        self._av = import_extra("av", extra="video")
        self._container, self._time_base = container, reader.time_base
        even = {"height": height + height % 2, "width": width + width % 2}
        self._video = container.add_stream("libx264", rate=reader.rate, options=QUALITY, **even)
        context = self._video.codec_context
        context.time_base = reader.time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._audio: Any = None
        self._encodes_audio = reader.audio is not None and not reader.copies_audio
        if self._encodes_audio:
            layout = "mono" if reader.audio.codec_context.channels == 1 else "stereo"
            rate = min(AAC_RATES, key=lambda known: abs(known - reader.audio.rate))
            self._audio = container.add_stream("aac", rate=rate, layout=layout)
        elif reader.audio is not None:
            self._audio = container.add_stream_from_template(reader.audio)

    def write(self, picture: NDArray[np.uint8], frame: Frame) -> None:
        """Append the picture, RGB uint8 (H, W, 3), of a frame."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        encoded = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        encoded = encoded.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        encoded.pts, encoded.time_base, encoded.duration = frame.time, self._time_base, frame.duration
        self._container.mux(self._video.encode(encoded))

    def write_sound(self, sound: Any) -> bool:
        """Append what the reader handed out as sound; False for what is damaged and left out."""
        if self._encodes_audio:
            self._container.mux(self._audio.encode(sound))
            return True
        sound.stream = self._audio
        try:
            self._container.mux(sound)
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):  # the disk's
                raise
            return False
        return True

    def finish(self) -> None:
        """Write what the encoders still hold."""
        self._container.mux(self._video.encode(None))
        if self._encodes_audio:
            self._container.mux(self._audio.encode(None))


@contextmanager
def video_writer(path: Path, reader: VideoReader, height: int, width: int) -> Iterator[VideoWriter]:
    """A writer whose file takes its name when it is whole; on an error nothing is left."""
    av = import_extra("av", extra="video")
    with atomic_writer(path) as file, av.open(file, "w", format="mp4") as container:
        writer = VideoWriter(container, reader, height, width)
        yield writer
        writer.finish()
