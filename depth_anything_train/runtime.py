"""What every command shares: user errors, safe writes, seeds, progress bars, provenance of a run."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# No markup and no emoji: messages hold paths and lists, and square brackets and colons in them are meant.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)


RUN_AGAIN = 75
"""Exit status of a run that was asked to stop and saved its state: the same command continues (EX_TEMPFAIL)."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a training to stop: two of schedulers, and Ctrl-C."""


class UserError(ValueError):
    """Something the user can mend: the message says what was expected, what came and what to do.

    The program prints it as one sentence and exits with status 2; it never shows a traceback.
    """


def require_folder(path: str | Path, *, what: str) -> Path:
    """Return `path` as a folder that exists.

    Raises:
        UserError: it does not exist or is no folder; `what` names its role in the message.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"Expected {what} in a folder, but {folder} {state}; check the path.")
    return folder


def import_extra(module: str, *, extra: str) -> Any:
    """Import a library that only some uses need, when one of them comes up.

    Raises:
        UserError: it is not installed; `extra` is the group of this package's requirements that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # it is there, but something of its own is not
            raise
        install = f'pip install "depth-anything-train[{extra}]"'
        raise UserError(f"Expected the library {error.name}, which is not installed; {install}.") from None


def require_writable(folder: Path) -> None:
    """Make the folder if need be and try it, before anything that takes time.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"Expected a folder to write to as out, but {folder} is none: {error.strerror}.") from None


# -- Nothing half-written is ever visible: write beside the target, flush to disk, rename. -----------------------------


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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A disk that is full, or fails, does not say which one it is: name the file that was to be written."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in DISK_ERRORS:
            error.filename = str(path)
        raise


# A living writer holds a lock on its temporary file, a killed one cannot: the system takes locks from the dead.


def open_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `path`, locked while it is open, for what is to be renamed to `path`."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        file = open(temporary, "wb")
        with suppress(OSError):  # no locks on this file system: then nobody deletes leftovers
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else it was taken for a leftover before it was locked
            return temporary, file
        file.close()


def remove_leftovers(folder: Path, prefix: str = "") -> None:
    """Delete what killed writers have left of files whose names begin so; what a living one writes stays."""
    for leftover in folder.glob(f".{glob.escape(prefix)}*.tmp"):
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
    """Write JSON atomically, with sorted keys, so that equal content gives equal bytes."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


class TextFile(Protocol):
    """A path, or an address that reads like one."""

    def read_text(self) -> str: ...  # noqa: D102


def read_json(path: str | TextFile, *, keys: Sequence[str] | Mapping[str, type] = ()) -> Any:
    """Read JSON; with `keys` it must be an object that has them, and of these types where `keys` says so.

    Raises:
        UserError: the file is missing, no JSON, lacks a key, or a value is of another type.
    """
    try:
        content = json.loads((Path(path) if isinstance(path, str) else path).read_text())
    except FileNotFoundError:
        raise UserError(f"Expected the file {path}, which does not exist; was the step before it finished?") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected JSON ({error}); delete it and run the step again.") from None
    types = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, object)
    found = content if isinstance(content, dict) else {}
    if wrong := [key for key, kind in types.items() if key not in found or not isinstance(found[key], kind)]:
        raise UserError(f"{path} is damaged: expected keys {', '.join(wrong)}; delete it and run the step again.")
    return content


def fingerprint(content: Any) -> str:
    """A short hash of anything JSON can hold; equal content gives an equal hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def handling(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """These signals go to `handler` inside this block, and afterwards to whoever had them before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)


@contextmanager
def leaving_on_request() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and Ctrl-C end this block with `RUN_AGAIN`: for work that is safe to leave anywhere.

    Schedulers ask so before they take a machine away, and put a job back into their queue by its exit status. Signals
    that were held are let through here, and held again behind it.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(RUN_AGAIN)

    with handling(STOP_SIGNALS, leave):
        held = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextmanager
def leaving_at_once(numbers: Iterable[int], status: int, message: str) -> Iterator[None]:
    """Any of these signals ends the process in the middle of this block: for imports alone, which leave nothing behind.

    An exception would not do: some libraries catch whatever their own imports raise, and go on.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        console.print(message, style="bold red")
        os._exit(status)

    with handling(numbers, leave):
        yield


def hold_signals() -> None:
    """Let what asks a training to stop wait until somebody listens: to import torch takes seconds, or minutes.

    Ctrl-C goes through: nothing has begun.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS} - {signal.SIGINT})


# -- A stage that outlived the run that started it would race with the next run. ---------------------------------------

PARENT = "DEPTH_ANYTHING_PARENT"


def die_with_parent() -> None:
    """End this process when the one that started it ends, if that one asked for it through the environment (Linux)."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        os._exit(1)


def end_with_parent() -> None:
    """In a worker of `multiprocessing`: end when the parent does, which it would not notice by itself (anywhere)."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# -- Random numbers are a pure function of what they are for. ----------------------------------------------------------


def keyed_seed(*key: int | str) -> int:
    """A 64-bit seed from a key such as (seed, "crop", epoch, index): the same key gives the same seed everywhere."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def is_first_process() -> bool:
    """Whether this is the first of the processes of a training, by what torchrun, Lightning or srun told it.

    Who speaks before they know of each other asks this; errors are everybody's own.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID"))


# -- What a person sees. -----------------------------------------------------------------------------------------------


class ProgressBar:
    """One bar with time left; in a log file, where a bar cannot be drawn, a line every ten seconds.

    `total` is None where nobody knows it: a stream ends when it ends. One that is not `shown` counts in silence, as all
    but one of several processes do.
    """

    def __init__(self, description: str, total: int | None, *, done: int = 0, shown: bool = True) -> None:
        self.description, self.total, self.done, self.shown = description, total, done, shown
        self.start, self.first, self.next_line = time.monotonic(), done, 10.0
        self.bar: Progress | None = None

    def __enter__(self) -> ProgressBar:
        if self.shown and console.is_terminal:
            counts = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*counts, *left, console=console)
            self.bar.start()
            self.task = self.bar.add_task(self.description, total=self.total, completed=self.done, note="")
        return self

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Count `count` more items as done; `note` stands behind the bar."""
        self.done += count
        if not self.shown:
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        elapsed = time.monotonic() - self.start
        if elapsed >= self.next_line or self.done == self.total:
            self.next_line = elapsed + 10.0
            line = f"{self.description}: {self.done}"
            if self.total is None:
                line += f", {elapsed:.0f} s {note}"
            else:
                left = elapsed / max(self.done - self.first, 1) * max(self.total - self.done, 0)
                line += f"/{self.total}, {elapsed:.0f} s, {left:.0f} s left {note}"
            console.print(line.rstrip(), soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


COMMAND_LINE = "DEPTH_ANYTHING_COMMAND"
"""In the environment, because processes that are started for further devices belong to the same command."""


def provenance() -> dict[str, Any]:
    """Where a result comes from: command, commit, versions, machine kind. Paths are in it as typed."""
    here = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    versions = {name: metadata.version(name) for name in ("torch", "timm", "pytorch-lightning", "numpy")}
    return {
        "command": os.environ.get(COMMAND_LINE, "called from Python"),
        "commit": git.stdout.strip() or "installed package",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
    }
