"""Preemption: a signal only sets a flag; all ranks agree on it at the end of a step, save, and leave together.

Schedulers send SIGTERM or SIGUSR1 before they take a machine away, often to one rank first or to one rank alone. Work
inside a signal handler could meet a half-done step or a collective call, so the handler does none.
"""

from __future__ import annotations

import signal
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import distributed

from depth_anything_train.signals import STOP_SIGNALS


class Stopped(Exception):
    """All ranks leave, because one of them was asked to; the state is saved."""


class _StoppedAtOnce(BaseException):
    """The user asked twice. (What Lightning makes of a KeyboardInterrupt ends the process without a word.)"""


class Interruption:
    """Whether this run was asked to stop.

    Inside the `with` block it handles the stop signals. A second Ctrl-C stops at once: out of the block comes a
    KeyboardInterrupt.

    Attributes:
        received: this rank was asked.
        agreed: all ranks know that one of them was; the run leaves as soon as its state is saved.

    Args:
        timeout_s: how long ranks wait for each other's word.
    """

    def __init__(self, timeout_s: float = 1800) -> None:
        self.received = self.agreed = False
        self.timeout = timedelta(seconds=timeout_s)
        self._group: Any = None  # of torch.distributed

    def __enter__(self) -> Interruption:
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.listen()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # what came while the program was starting
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is _StoppedAtOnce:
            raise KeyboardInterrupt from None

    def listen(self) -> None:
        """Take over the signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise _StoppedAtOnce
        self.received = True

    def connect(self) -> None:
        """Make the process group for `agree`; every rank must call it before the first `agree`."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            # On the CPU: the ranks' word must not wait for their GPUs.
            self._group = distributed.new_group(backend="gloo", timeout=self.timeout)

    def agree(self) -> bool:
        """Whether any rank was asked to stop; the same answer on every rank, each of which must call it."""
        flag = torch.tensor(self.received, dtype=torch.uint8)
        if self._group is not None:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        self.agreed = bool(flag)
        return self.agreed

    def agree_or_stop(self) -> None:
        """Agree, and leave if a rank was asked to. Every rank must call it.

        Raises:
            Stopped: a rank was asked to stop.
        """
        self.agree()
        self.stop_if_agreed()

    def stop_if_agreed(self) -> None:
        """Leave if all ranks know already that they should; asks none of them.

        Raises:
            Stopped: all know that a rank was asked to stop.
        """
        if self.agreed:
            raise Stopped
