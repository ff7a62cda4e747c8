"""Several processes that evaluate one model: each takes its own samples, the first gathers and writes.

    torchrun --nproc-per-node 2 -m depth_anything_train.cli evaluate model=... data=... out=...

What is handed out are blocks of neighbouring samples, which do not depend on the number of processes. So every image
meets the same batch, none is padded or judged twice, and the numbers are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from depth_anything_train.ops.gather import gather_objects
from depth_anything_train.runtime import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together.

    Attributes:
        rank: number of this process.
        world: how many there are.
        check: what all of them call together, at every block that all of them have; by raising it ends the work of all.
    """

    rank: int = 0
    world: int = 1
    check: Callable[[], None] = lambda: None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows progress."""
        return self.rank == 0

    def share(self, blocks: Sequence[T], work: Callable[[T], None]) -> None:
        """Call `work` with every `world`-th block: together the processes do each exactly once.

        Raises:
            UserError: on all processes, what one of them met. It does not leave the others, which would wait for it or
                take what it hands in next for its part of this.
        """
        met: UserError | None = None
        for number, block in enumerate(blocks[self.rank :: self.world]):
            if number < len(blocks) // self.world:
                self.check()
            try:
                if met is None:
                    work(block)
            except UserError as error:
                met = error
        for theirs in [met] if self.world == 1 else gather_objects(met):
            if theirs is not None:
                raise theirs

    def gather(self, part: T) -> list[T]:
        """The parts of all processes, in the order of their ranks, on the first; nothing elsewhere."""
        if self.world == 1:
            return [part]
        parts: list[T] | None = [part] * self.world if self.first else None
        distributed.gather_object(part, parts)
        return parts or []


ALONE = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, joined through gloo; this one alone where there are no others."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "MASTER_ADDR" not in os.environ:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    distributed.init_process_group("gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
