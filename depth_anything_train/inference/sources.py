"""The sources of `predict`: photographs in a folder, a pattern or a list; a video, a camera, a stream."""

from __future__ import annotations

import functools
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from depth_anything_train.data.schema import IMAGE_EXTENSIONS
from depth_anything_train.runtime import UserError, console
from depth_anything_train.walking import LinkedFolders

SUFFIXES = {
    "color": "_color.png",
    "16bit": "_16bit.png",
    "npy": ".npy",
    "control": "_control.png",
    "side_by_side": "_side_by_side.png",
}
"""What can be written for a photograph NAME, and what stands behind NAME in the file's name."""

VIDEO_EXTENSIONS = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv".split()
UNREAD_EXTENSIONS = {*VIDEO_EXTENSIONS, *"arw avif bmp cr2 cr3 dng gif heic heif jp2 jxl nef tif tiff".split()}
"""Of files that are counted where photographs are looked for, because they are not read."""

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
"""FFmpeg's names of what may be opened: not the playlists, which can send it to any other file or address."""
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
"""FFmpeg's name for the system's cameras, and how it addresses one."""


@dataclass(frozen=True)
class Photos:
    """Image files below one folder; iterating gives (file, name of its outputs without extension), sorted.

    Only paths below the folder are held: a million of them are some 100 MB.
    """

    folder: Path
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        for file in self.files:
            yield self.folder / file, os.path.splitext(file)[0]


@dataclass(frozen=True)
class Video:
    """A video by its address; `device` is FFmpeg's name for the kind of a camera, `live` is what ends when it ends."""

    address: str
    name: str
    device: str | None = None
    live: bool = False

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.address)  # no password in a message or a log


def find_source(source: str | int, *, out: Path | None = None) -> Photos | Video:
    """What `source` means: an image, a folder with everything below it, a pattern such as `photos/*.jpg`, a text file
    with one path a line, a video file, the number of a camera, or the address of a stream (`rtsp://...`).

    Names of outputs are paths below the folder; of a pattern or a list, below the folder that all files share.

    Args:
        source: as typed.
        out: where the outputs go; what lies there is no photograph, even if it lies in the folder or fits the pattern.

    Raises:
        UserError: nothing was found, two images would write the same outputs, the outputs would lie among the
            photographs, or there are several videos.
    """
    text, unread = str(source), Counter[str]()
    if not text.strip():
        raise UserError("Expected photographs, a video, a camera's number or an address as source, but got nothing.")
    path = Path(text).expanduser()
    if path.is_dir():
        return _checked(text, path, _below(path, out, unread), unread)
    if text.isdecimal() or "://" in text or _extension(text) in VIDEO_EXTENSIONS:
        return as_video(text)
    if path.is_file():
        photos = _shared(text, _listed(path), unread) if _extension(text) == "txt" else Photos(path.parent, [path.name])
        if out is not None and out.resolve() in {file.parent.resolve() for file, _ in photos}:
            raise _not_apart(out)
        return photos
    return _shared(text, _matching(str(path), out, unread), unread)


def as_video(source: str | int | Path) -> Video:
    """A video file, the number of a camera or the address of a stream.

    Raises:
        UserError: there is no such file, or cameras have no numbers on this system.
    """
    text = str(source)
    if text.isdecimal():
        if sys.platform not in CAMERAS:
            raise UserError(f"Expected a stream's address, but got camera {text}; only Linux and macOS number cameras.")
        device, address = CAMERAS[sys.platform]
        return Video(address.format(text), f"camera{text}", device, live=True)
    if "://" in text:
        url = urlsplit(text)
        return Video(text, Path(url.path).stem or url.hostname or "stream", live=True)
    path = Path(text).expanduser()
    if not path.is_file():
        if glob.has_magic(text):
            raise UserError(f"Expected one video, but got the pattern {text}; videos are predicted one at a time.")
        raise UserError(f"Expected a video file at {text}, but there is none; check the path.")
    return Video(os.path.abspath(path), path.stem)  # FFmpeg takes what comes before a colon for a protocol


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower().lstrip(".")


def _below(folder: Path, out: Path | None, unread: Counter[str]) -> Iterator[str]:
    skipped = None if out is None else out.resolve()
    if skipped == folder.resolve():
        raise _not_apart(out)
    if skipped is not None and skipped.is_relative_to(folder.resolve()):
        _tell_unread(out, (name for _, _, files in os.walk(skipped) for name in files))
    links = LinkedFolders(folder)
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        below = [Path(parent, name) for name in sorted(folders)]
        below = [path for path in below if not path.is_symlink() or links.follow(path)]
        folders[:] = [path.name for path in below if skipped is None or path.resolve() != skipped]
        here = os.path.relpath(parent, folder)
        for name in files:
            if name.startswith("."):  # ._a.jpg is macOS's note on a.jpg
                continue
            if _extension(name) in IMAGE_EXTENSIONS:
                yield name if here == "." else os.path.join(here, name)
            elif _extension(name) in UNREAD_EXTENSIONS:
                unread[_extension(name)] += 1


def _raise(error: OSError) -> None:
    raise error


def _matching(pattern: str, out: Path | None, unread: Counter[str]) -> list[str]:
    any_kind = not re.fullmatch(r"\w+", _extension(pattern))  # then as in a folder
    kinds = IMAGE_EXTENSIONS if any_kind else (_extension(pattern),)
    skipped = None if out is None else out.resolve()
    inside = functools.cache(lambda folder: skipped is not None and Path(folder).resolve().is_relative_to(skipped))
    found = []
    for file in glob.iglob(pattern, recursive=True):
        if _extension(file) in kinds and os.path.isfile(file):
            found.append(file)
        elif _extension(file) in UNREAD_EXTENSIONS and not inside(os.path.dirname(file)):
            unread[_extension(file)] += 1
    photos = [file for file in found if not inside(os.path.dirname(file))]
    if found and not photos:
        raise _not_apart(out)
    _tell_unread(out, set(found).difference(photos))
    return photos


def _tell_unread(out: Path | None, names: Iterable[str]) -> None:
    """Say that images in the folder of the outputs are not read, unless they are outputs themselves."""
    seen = (name for name in names if not os.path.basename(name).startswith("."))
    images = (name for name in seen if _extension(name) in IMAGE_EXTENSIONS)
    count = sum(not name.lower().endswith(tuple(SUFFIXES.values())) for name in images)
    if count:
        console.print(f"Images in {out} that are not read, because the outputs go there: {count}", soft_wrap=True)


def _not_apart(out: Path | None) -> UserError:
    return UserError(f"Expected outputs apart from the photographs, but got {out}; name another folder, or one in it.")


def _listed(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as UTF-16 has it
        raise UserError(f"Expected {path} to hold one path a line, but it is no UTF-8 text.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if video := next((line for line in lines if _extension(line) in VIDEO_EXTENSIONS), None):
        raise UserError(f"Expected photographs in {path}, but {video} is a video; videos are predicted one at a time.")
    return lines


def _shared(source: str, files: Iterable[str], unread: Counter[str]) -> Photos:
    paths = sorted({os.path.abspath(os.path.expanduser(file)) for file in files})
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else "."
    return _checked(source, Path(folder), (os.path.relpath(path, folder) for path in paths), unread)


def _checked(source: str, folder: Path, files: Iterable[str], unread: Counter[str]) -> Photos:
    files = sorted(files)
    left_out = ", ".join(f"{count} {extension}" for extension, count in sorted(unread.items()))
    if not files:
        others = f"; there are {left_out}, but it takes JPEG, PNG or WebP, or one video by its name" if left_out else ""
        expected = "Expected photographs, a video, a camera's number or an address"
        raise UserError(f"{expected}, but {source!r} matches none{others}.")
    if left_out:
        console.print(f"Files of {source} that are not read, being no JPEG, PNG or WebP: {left_out}", soft_wrap=True)
    name, count = Counter(os.path.splitext(file)[0] for file in files).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} images of {source} would write the same outputs, {name}; rename one of them.")
    return Photos(folder, files)
