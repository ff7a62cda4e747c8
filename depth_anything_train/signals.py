"""Requests to stop a process: signals, the exit statuses that answer them, and the end of the parent process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from depth_anything_train.runtime import console

RUN_AGAIN = 75
"""Exit status of a run that was asked to stop and saved its state: the same command continues (EX_TEMPFAIL)."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a training to stop: two of schedulers, and Ctrl-C."""


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
    that were held are let through here, and held again behind it. What a library swallows is raised again,
    as soon as nobody keeps it.
    """
    inside, watched = True, None

    def leave(number: int, frame: FrameType | None) -> None:
        def again(_: object) -> None:
            if inside:  # a library caught it and went on; what is raised here, at the end of an object, gets lost
                signal.setitimer(signal.ITIMER_REAL, 0.01)

        nonlocal watched
        request = _Request(RUN_AGAIN)
        watched = weakref.ref(request, again)
        try:
            raise request
        finally:
            del request  # its traceback would keep it

    try:
        with handling((*STOP_SIGNALS, signal.SIGALRM), leave):
            timer, held = signal.getitimer(signal.ITIMER_REAL), signal.pthread_sigmask(signal.SIG_BLOCK, ())
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # raises what was held
                yield
            finally:
                inside = False
                signal.setitimer(signal.ITIMER_REAL, *timer)  # a block around this one may be about to ask again
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
    finally:  # a signal may also come while handlers are exchanged
        inside = False


class _Request(SystemExit):
    """Tells when nobody passes it on any more: weak references know only classes of Python's own."""


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
    """Hold back the stop signals of a training until they can be handled: importing torch takes seconds, or minutes.

    Ctrl-C goes through: nothing has begun.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS} - {signal.SIGINT})


# -- A stage that outlived the run that started it would race with the next run. ---------------------------------------

PARENT = "DEPTH_ANYTHING_PARENT"


@contextmanager
def children_die_with_this() -> Iterator[None]:
    """Commands of this program that are started inside this block end when this process does (Linux)."""
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[PARENT]


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
