"""Files that are never half-written: write beside the target, flush to disk, rename."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from depth_anything_train.runtime import UserError

_ADDRESS = re.compile(r"(\w{2,}):/+")
"""The scheme of an address; `Path` collapses `//` to `/`."""


def require_folder(path: str | Path, *, what: str) -> Path:
    """Return `path` as a folder that exists.

    Raises:
        UserError: it does not exist or is no folder; `what` names its role in the message.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if _ADDRESS.match(str(folder)):
            address = _ADDRESS.sub(r"\1://", str(folder), count=1)
            raise UserError(
                f"Expected {what} in a folder of this machine, but {address} is an address; copy it here or mount it, "
                "and give that folder."
            )
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"Expected {what} in a folder, but {folder} {state}; check the path.")
    return folder


def require_writable(folder: Path, key: str = "out") -> None:
    """Make the folder if need be and try it, before anything that takes time; `key` names it in the message.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"Expected a folder to write to as {key}, but {folder} cannot be used: {error.strerror}."
        ) from None


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on leaving without an error it is flushed to disk and takes the name.

    The parent folder is made. On an error the temporary file goes and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = open_temporary(path)
    try:
        with naming(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # before the lock goes with the file
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


LONGEST_NAME = 255
"""Bytes of a file's name that the usual file systems take."""


def require_short_names(paths: Iterable[Path]) -> None:
    """Refuse longer ones before anything that takes time.

    Raises:
        UserError: a file's name is longer.
    """
    for path in paths:
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise UserError(f"Expected names of at most {LONGEST_NAME} bytes, but {path.name} is longer; rename it.")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an error of the disk (full, failed), which does not name it itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in DISK_ERRORS:
            error.filename = str(path)
        raise


LONGEST_BEGINNING = 200
"""Bytes of its file's name that a temporary one has in its own: names may have 255."""


TEMPORARY = r"\.([^/]+)\.[0-9a-f]{32}\.tmp$"
"""What the path of a temporary file ends with, and in it the name of its file."""


# A living writer holds a lock on its temporary file, a killed one cannot: the system takes locks from the dead.
def open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `path`, locked while it is open, for what is to be renamed to `path`."""
    while True:
        beginning = os.fsdecode(os.fsencode(path.name)[:LONGEST_BEGINNING])
        temporary = path.with_name(f".{beginning}.{uuid.uuid4().hex}.tmp")
        file = open(temporary, "wb")
        with suppress(OSError):  # no locks on this file system: then nobody deletes leftovers
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else it was taken for a leftover before it was locked
            return temporary, file
        file.close()


def remove_leftovers(folder: Path, prefix: str = "") -> None:
    """Delete temporary files that killed writers left, by the start of their names; files of running writers stay."""
    for leftover in folder.glob(f".{glob.escape(prefix)}*.tmp"):
        if re.fullmatch(TEMPORARY, leftover.name) is None:  # somebody else's
            continue
        # Locked, gone, or on a file system without locks; NFS locks only what is open for writing.
        with suppress(OSError), open(leftover, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; equal content gives equal bytes."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """The content of a JSON file, with sorted keys."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def create_json(path: Path, content: Any) -> None:
    """Write JSON unless the file is there: of several that try at once, one writes, and nobody sees half of it."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    write_json(draft, content)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        write_json(path, content)
    finally:
        draft.unlink(missing_ok=True)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table with a header and a line a row; what is None or not in a row is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class TextFile(Protocol):
    """A path, or an address that reads like one."""

    def read_text(self) -> str: ...  # noqa: D102


def read_json(
    path: str | TextFile,
    *,
    keys: Sequence[str] | Mapping[str, type] = (),
    mend: str = "delete it and run the step again",
) -> Any:
    """Read JSON; with `keys` it must be an object that has them, and of these types where `keys` says so.

    `mend` is what to do where it is damaged, for the message.

    Raises:
        UserError: the file is missing, no JSON, lacks a key, or a value is of another type.
    """
    try:
        content = json.loads((Path(path) if isinstance(path, str) else path).read_text())
    except FileNotFoundError:
        raise UserError(f"Expected the file {path}, which does not exist; was the step before it finished?") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected JSON ({error}); {mend}.") from None
    types = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, object)
    found = content if isinstance(content, dict) else {}
    if wrong := [key for key, kind in types.items() if key not in found or not isinstance(found[key], kind)]:
        raise UserError(f"{path} is damaged: expected keys {', '.join(wrong)}; {mend}.")
    return content
