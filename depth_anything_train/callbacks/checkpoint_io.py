"""Checkpoints on disk that a kill at any moment cannot harm.

A checkpoint is streamed to a temporary file beside its target, flushed, renamed; then its size and hash are written
to `<name>.json` the same way. That small file is the only mark of a finished checkpoint, and what it says is checked
before a run continues: the newest sound checkpoint wins, a torn one is passed over with a message.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
import xxhash
from lightning_fabric.plugins import CheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from depth_anything_train.files import atomic_writer, read_json, write_json
from depth_anything_train.run_folder import checkpoints
from depth_anything_train.runtime import UserError, console, is_first_process, require_count


class SoundCheckpointIO(CheckpointIO):
    """Lightning's way to disk, made safe: streamed, flushed, renamed, hashed; read with `weights_only=True`.

    Args:
        keep: how many checkpoints stay in a folder, counted back from the one that was written last.
        background: copy the state to the CPU's memory and write it in a thread, so that training goes on meanwhile.
            The memory of one state more; the next checkpoint waits for this one.
    """

    def __init__(self, *, keep: int = 2, background: bool = False) -> None:
        require_count("checkpoint.keep", keep)
        self.keep, self.background = keep, background
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint, its mark, and remove those that are no longer kept.

        Raises:
            UserError: it cannot be written, or the one before, in the background, could not.
        """
        self.wait()
        if self.background:
            snapshot = apply_to_collection(checkpoint, Tensor, lambda x: x.detach().to("cpu", copy=True))
            self._writing = self._thread.submit(self._save, snapshot, Path(path))
        else:
            self._save(checkpoint, Path(path))

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            UserError: what was being written could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def raise_if_failed(self) -> None:
        """Without waiting, say whether the last checkpoint could be written.

        Raises:
            UserError: it could not be.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def teardown(self) -> None:
        """Lightning's name for the end."""
        self.wait()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; code inside it is never run.

        Raises:
            UserError: the file is missing or torn.
        """
        if not is_sound(Path(path)):
            raise UserError(f"{path} is missing, torn or without its .json beside it; use another checkpoint.")
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, its mark first."""
        Path(path).with_suffix(".json").unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)

    def _save(self, checkpoint: dict[str, Any], path: Path) -> None:
        try:
            with atomic_writer(path) as file:
                stream = _HashingStream(file)
                torch.save(checkpoint, cast(IO[bytes], stream))
            write_json(path.with_suffix(".json"), {"bytes": stream.size, "xxh3": stream.hash.hexdigest()})
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch ends its archive all the same
            if not isinstance(cause, OSError):
                raise
            before = " The checkpoint before it holds." if checkpoints(path.parent) else ""
            raise UserError(
                f"Could not write {path}: {cause.strerror or cause}.{before} Make room, or fix what is wrong, and run "
                "the same command again."
            ) from None
        others = checkpoints(path.parent)
        # What lies ahead was torn, or the run would have continued from it.
        ahead = [other for other in others if other.name > path.name]
        for other in [*[other for other in others if other.name <= path.name][: -self.keep], *ahead]:
            self.remove_checkpoint(other)


def newest_sound_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose size and hash match its mark, or None."""
    for path in reversed(checkpoints(folder)):
        if is_sound(path):
            return path
        if is_first_process():
            console.print(f"{path.name} is torn or unfinished; looking for an older checkpoint.")
    return None


def remove_half_checkpoints(folder: Path) -> None:
    """Remove what a kill left half-written: nobody sees it, but it is as large as a checkpoint.

    No lock is asked, as `files.remove_leftovers` does: nobody else writes checkpoints of this run, and on a file system
    without locks they would stay for ever.
    """
    for path in Path(folder).glob(".step-*.tmp"):
        path.unlink(missing_ok=True)


def is_sound(path: Path) -> bool:
    """Whether a checkpoint's bytes match its mark."""
    mark = path.with_suffix(".json")
    if not path.is_file() or not mark.is_file():
        return False
    try:
        expected = read_json(mark, keys=("bytes", "xxh3"))
    except UserError:
        return False
    state = path.stat()
    return state.st_size == expected["bytes"] and _digest(path, state.st_size, state.st_mtime_ns) == expected["xxh3"]


@functools.cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file, which is read once while its size and time stay: it is found first, and loaded later."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class _HashingStream:
    """A file that is only written to, front to back, and hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.hash = file, 0, xxhash.xxh3_128()

    def write(self, block: Any) -> int:
        self.hash.update(block)
        count = self.file.write(block)
        self.size += count
        return count

    def flush(self) -> None:
        self.file.flush()
