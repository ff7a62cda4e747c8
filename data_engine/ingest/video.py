"""Pictures of videos, one in so many: the one source of unlabelled images whose pixels are encoded again.

The key is the video's path without its extension, as that of a photograph, and the picture's number. A video is only
decoded forward: a process that reads its pictures in their order decodes it once.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import RawSample, choose, encode_jpeg, list_files, make_key, stem, unique_keys
from depth_anything_train.data.images import MAX_PIXELS
from depth_anything_train.data.schema import IMAGES, BadSample
from depth_anything_train.files import require_folder
from depth_anything_train.inference.sources import CONTAINERS, VIDEO_EXTENSIONS
from depth_anything_train.inference.video_files import square_width, upright
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import ProgressBar, UserError, import_extra

ENCODERS = {"jpg": encode_jpeg, "png": encode_png}


class Picture(NamedTuple):
    """Picture `number` of a video, in the order in which they are shown."""

    key: str
    path: str
    number: int
    unique: bool

    def __str__(self) -> str:
        return f"picture {self.number} of {self.path}"


class Pictures(Sequence[Picture]):
    """One picture in `every` of many videos, made when they are asked for; a slice is a list.

    Args:
        paths: paths of the videos.
        counts: how many pictures each has.
        every: 1 takes all.
    """

    def __init__(self, paths: Sequence[str], counts: Sequence[int], every: int) -> None:
        self.paths, self.every = paths, every
        self.keys = [make_key(stem(path)) for path in paths]
        self.unique = unique_keys(self.keys)
        self.starts = [0, *itertools.accumulate(-(-count // every) for count in counts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        video = bisect.bisect_right(self.starts, position) - 1
        number = (position - self.starts[video]) * self.every
        return Picture(f"{self.keys[video]}-{number:06d}", self.paths[video], number, self.unique[video])


@dataclass(frozen=True)
class Video:
    """Pictures of a video file, or of all videos in a folder and below.

    Args:
        root: the file or folder.
        source: name of the set; the root's name if empty.
        every: take the first picture of so many.
        encoding: `jpg` (quality 95) or `png` (nothing is lost, some five times the bytes).
        count: take only so many pictures, drawn by `seed`; None takes all.
        seed: seed of that draw.
    """

    root: str
    source: str = ""
    every: int = 10
    encoding: str = "jpg"
    count: int | None = None
    seed: int = 0

    kind = IMAGES

    def __post_init__(self) -> None:
        if self.every < 1 or self.encoding not in ENCODERS:
            came = f"every={self.every} encoding={self.encoding}"
            raise UserError(f"Expected every=1 or more and encoding={' or '.join(ENCODERS)}, but got {came}.")
        root = Path(self.root).expanduser().resolve()
        object.__setattr__(self, "source", self.source or (root.stem if root.is_file() else root.name))

    def items(self) -> Sequence[Picture]:
        """All pictures, the videos in natural order.

        Raises:
            UserError: no such file or folder, no videos in it, or PyAV is not installed.
        """
        root = Path(self.root).expanduser()
        if root.is_file():
            paths = [root.name]
        elif not (paths := list_files(require_folder(root, what="videos"), VIDEO_EXTENSIONS)):
            raise UserError(f"Expected videos ({', '.join(VIDEO_EXTENSIONS)}) in {root}, but there are none.")
        _film.cache_clear()  # a video may have changed since it was opened
        with ProgressBar("listing", len(paths)) as bar, ThreadPoolExecutor() as pool:
            counts = []
            for count in pool.map(count_pictures, map(self._file, paths)):
                counts.append(count)
                bar.advance()
        return choose(Pictures(paths, counts, self.every), self.count, self.seed)

    def load(self, item: Picture) -> RawSample:
        """Decode one picture and encode it; the same picture gives the same bytes.

        Raises:
            BadSample: `duplicate_key`, `unreadable_video`, `image_size` or `missing_picture`.
        """
        if not item.unique:
            raise BadSample("duplicate_key", f"A video before it has the same key {item.key}; rename one.")
        picture = _film(self._file(item.path)).picture(item.number)
        return RawSample(item.key, {self.encoding: ENCODERS[self.encoding](picture)})

    def info(self) -> dict[str, Any]:
        """The settings that change what is written."""
        return {"settings": {name: getattr(self, name) for name in ("every", "encoding", "count", "seed")}}

    def _file(self, path: str) -> Path:
        root = Path(self.root).expanduser()
        return root if root.is_file() else root / path


def count_pictures(file: Path) -> int:
    """How many pictures a video has by its header, or else by its packets; 1 if it cannot be opened.

    So a video that cannot be read is an item, which is dropped and counted. Packets are counted, too, where the header
    states far fewer pictures than fit its length: that of a fragmented MP4 knows the first fragment alone.
    """
    try:
        container, stream = _open(file)
    except BadSample:
        return 1
    with container:
        stated = min(stream.frames, file.stat().st_size)  # a header may lie, but no picture is free
        if stated and stated >= 0.9 * _pictures_by_length(stream):
            return stated
        return max(sum(packet.size > 0 for packet in _packets(container, stream)), 1)


def _pictures_by_length(stream: Any) -> float:
    """How many pictures its length holds at its average rate; 0 where one of them is not stated."""
    stated = stream.duration and stream.time_base and stream.average_rate
    return float(stream.duration * stream.time_base * stream.average_rate) if stated else 0.0


class Film:
    """A video that is decoded forward, one picture after another; asked for an earlier one it begins again.

    Raises:
        BadSample: `unreadable_video`, `image_size`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._begin()

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Picture `number` as `predict` sees it, upright and with square pixels, RGB (H, W, 3).

        Raises:
            BadSample: `missing_picture` if the video ends before it.
        """
        if number < self._next:
            self._begin()
        for frame in self._pictures:
            self._next += 1
            if self._next > number:
                return upright(frame, frame.height, square_width(self._stream, frame.width))
        raise BadSample("missing_picture", f"The video ends after {self._next} pictures that can be decoded.")

    def _begin(self) -> None:
        container, stream = _open(self._file)
        width, height = square_width(stream, stream.codec_context.width), stream.codec_context.height
        if width * height > MAX_PIXELS:
            came = f"the video says {width} x {height}"
            raise BadSample("image_size", f"Expected pictures of at most {MAX_PIXELS:,} pixels, but {came}.")
        stream.codec_context.thread_count = 1  # there is a process for every core
        self._stream, self._next, self._pictures = stream, 0, _decode(container, stream)


_film = lru_cache(1)(Film)
"""The video that this process is reading."""


def _open(file: Path) -> tuple[Any, Any]:
    """PyAV's container and the stream of pictures that players choose.

    Raises:
        BadSample: `unreadable_video`.
    """
    av = import_extra("av", extra="ingest")
    try:
        # The prefix, because FFmpeg takes a name with a colon for an address.
        options = {"format_whitelist": CONTAINERS}
        container = av.open(f"file:{file}", options=options, metadata_errors="replace")
    except _errors() as error:
        raise BadSample("unreadable_video", f"{file.name} cannot be opened: {error.strerror}.") from None
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise BadSample("unreadable_video", f"{file.name} holds no pictures that can be decoded.")
    return container, stream


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Every picture that can be decoded."""
    errors = _errors()
    for packet in _packets(container, stream):
        try:
            yield from packet.decode()
        except errors:
            continue


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, up to where the file breaks off."""
    errors = _errors()
    try:
        yield from container.demux(stream)
    except errors:
        return


def _errors() -> Any:
    return import_extra("av", extra="ingest").error.FFmpegError
