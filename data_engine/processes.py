"""Work shared out among processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import cv2

from depth_anything_train.data.remote import RemotePath
from depth_anything_train.runtime import UserError
from depth_anything_train.signals import end_with_parent

Result = TypeVar("Result")


def ordered_map(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int | None = None
) -> Generator[Result, None, None]:
    """Call `function(*task)` for each task in other processes; results come in the order of the tasks.

    The processes are ended, whatever they are at, when it is closed before the last result.

    Args:
        workers: processes; None is one a core, 0 calls in this process.

    Raises:
        UserError: a process died, by lack of memory for instance; the message says what was under way.
    """
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(tasks))
    if workers < 1:
        yield from (function(*task) for task in tasks)
        return
    # Fresh processes: forking one that has threads (progress bar, OpenCV) can hang it.
    context = multiprocessing.get_context("spawn")
    others = {*multiprocessing.active_children()}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        waiting: deque[tuple[Future[Result], tuple[Any, ...]]] = deque()
        try:
            for task in tasks:
                waiting.append((pool.submit(function, *task), task))
                if len(waiting) > 2 * workers:  # keep everybody busy without queueing millions of paths
                    yield _result(waiting)
            while waiting:
                yield _result(waiting)
        except BrokenProcessPool:
            under_way = ", ".join(_name(task) for _, task in itertools.islice(waiting, workers))
            died = f"A worker process died, perhaps for lack of memory, at one of {under_way}"
            raise UserError(f"{died}; run again with fewer workers=.") from None
        finally:
            if waiting:  # else leaving would wait for what is under way
                for worker in {*multiprocessing.active_children()} - others:
                    worker.kill()


def _result(waiting: deque[tuple[Future[Result], tuple[Any, ...]]]) -> Result:
    """Result of the oldest task, which stands among those that wait until it is there."""
    result = waiting[0][0].result()
    waiting.popleft()
    return result


def _name(task: tuple[Any, ...]) -> str:
    """What a person knows a task by: its paths and numbers."""
    known = [str(part) for part in task if type(part) in (str, int) or isinstance(part, Path | RemotePath)]
    return " ".join(known) or "its tasks"


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    cv2.setNumThreads(1)
    end_with_parent()
