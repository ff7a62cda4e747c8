"""One at a time: locks on files, which the system takes from a process that ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from depth_anything_train.files import require_writable
from depth_anything_train.runtime import UserError, console, fingerprint, is_first_process
from depth_anything_train.signals import leaving_on_request

LOCK = ".lock"
"""In a folder that one run at a time works in; its content says which one has it, and stays behind."""

START = "DEPTH_ANYTHING_START"
"""In the environment of what the first process of a run starts: its name of the start they all belong to."""

LAUNCHERS = (
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
"""Variables that are equal in all processes of one launch and differ between launches."""


def wait_for_lock(file: IO[Any], waiting: str) -> None:
    """Take the lock on a file that is open for writing, until it is closed.

    Args:
        file: on a file system without locks (some mounts of NFS and Lustre) nobody waits.
        waiting: what to say if another process has it.
    """
    with suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(waiting, soft_wrap=True)
            fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def only_run_in(folder: Path, *, timeout_s: float = 1800) -> Iterator[None]:
    """Wait until no other run works in a folder, which is made if need be.

    Of the processes of a training the first one takes the lock for all of them; the others wait until it has it,
    because only then nobody else changes what they are about to read.

    Args:
        folder: the run folder.
        timeout_s: how long the other processes wait for the first one, in seconds.

    Raises:
        UserError: nothing can be written there, or the first process did not come.
        SystemExit: with `RUN_AGAIN`, if asked to stop while waiting.
    """
    require_writable(folder)
    start = os.environ.get(START) or _name_of_start()
    if not is_first_process():
        with leaving_on_request():
            _wait_for_first(folder, start, timeout_s)
        yield
        return
    with open(folder / LOCK, "a+") as file:
        os.register_at_fork(after_in_child=file.close)  # else the lock would stay with a killed run's loader workers
        with leaving_on_request():
            holder = _read(folder).partition("\n")[2].strip() or "another process"
            wait_for_lock(file, f"Another run is working in {folder} ({holder}); waiting for it to end.")
        file.truncate(0)
        file.write(f"{start}\nprocess {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        os.environ[START] = start
        try:
            yield
        finally:
            del os.environ[START]


def _name_of_start() -> str:
    """The same for all processes of a start, and for no other start that may still be at work."""
    told = [os.environ.get(name) for name in LAUNCHERS]
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):  # of one torchrun, on one machine
        # Who fixes its port and run id has them again in the next start; its folder, above attempt and rank, is new.
        told.append(str(Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parent.parent))
    return fingerprint(told)


def _wait_for_first(folder: Path, start: str, timeout_s: float) -> None:
    """Wait until the first process of this start has the lock."""
    since = time.monotonic()
    while _read(folder).partition("\n")[0] != start:
        if time.monotonic() - since > timeout_s:
            raise UserError(
                f"The first process of this run has not begun to work in {folder} within timeout_s={timeout_s} "
                "seconds; look at its last message. Does it see the same folder as this one?"
            )
        time.sleep(0.1)


def _read(folder: Path) -> str:
    """What the lock's file says; opened each time, upon which NFS asks its server."""
    with suppress(OSError):
        return (folder / LOCK).read_text()
    return ""
