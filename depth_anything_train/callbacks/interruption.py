"""Preemption: a signal only sets a flag; all ranks agree on it at the end of a step, save, and leave together.

Schedulers send SIGTERM or SIGUSR1 before they take a machine away, often to one rank first or to one rank alone. Work
inside a signal handler could meet a half-done step or a collective call, so the handler does none.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import torch
from torch import distributed

from depth_anything_train.runtime import STOP_SIGNALS


class Interruption:
    """Whether this run was asked to stop; as a context it has the signals. A second Ctrl-C stops at once.

    Attributes:
        received: this rank was asked.
        agreed: all ranks know that one of them was; the run leaves as soon as its state is saved.
    """

    def __init__(self) -> None:
        self.received = self.agreed = False
        self._group: Any = None  # of torch.distributed

    def __enter__(self) -> Interruption:
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take over the signals. Lightning puts handlers of its own in front when a fit begins: listen again then."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def connect(self) -> None:
        """Prepare to agree; every rank must call it, before the first `agree`."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            # On the CPU: the ranks' word must not wait for their GPUs.
            self._group = distributed.new_group(backend="gloo")

    def agree(self) -> bool:
        """Whether any rank was asked to stop; the same answer on every rank, each of which must call it."""
        flag = torch.tensor(self.received, dtype=torch.uint8)
        if self._group is not None:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        self.agreed = bool(flag)
        return self.agreed
