"""Labelling as one of several tasks that only know their number and how many there are, such as a SLURM array.

Task k of n begins with every n-th shard, so that tasks seldom meet. When its own are done it takes what others have not
begun, and shards whose leases were left by dead tasks. It ends when all shards are done, whoever did them. A shard that
cannot be labelled gets a note beside the leases, which the other tasks believe; the next run tries it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from data_engine.engines.base import Failures, label_shard, note_failure, shard_length
from data_engine.engines.leases import LeaseLost, Leases, look_again
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.manifest import find_manifest, manifest_path
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.schema import BadShard
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import write_bytes
from depth_anything_train.runtime import ProgressBar, UserError

LEASES = ".leases"
TASK, FIRST_TASK, TASKS = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"
PROCESS, PROCESSES = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"  # of those that srun starts for each


class ArrayEngine:
    """One task of an array, in this process.

    Args:
        task: number of this task, from 0; None takes it from SLURM: each process of each task of an array is one.
        tasks: how many tasks there are; None takes it from SLURM.
        heartbeat_s: seconds between two signs of life that a task gives.
        expiry_s: seconds without one after which others take over its shard; at least three times `heartbeat_s`.

    Raises:
        UserError: there is no such task.
    """

    def __init__(
        self, task: int | None = None, tasks: int | None = None, heartbeat_s: float = 10, expiry_s: float = 60
    ) -> None:
        if (task is None) != (tasks is None):
            raise UserError("Expected engine.task= and engine.tasks= together, or none of them in a SLURM array.")
        if task is None or tasks is None:
            job, jobs = _from_slurm(TASK) - _from_slurm(FIRST_TASK), _from_slurm(TASKS)
            job %= jobs  # an array may have gaps, 3,7 or 0-8:2, and the number only says where a task begins
            place, places = _from_slurm(PROCESS, "0"), _from_slurm(PROCESSES, "1")
            # Neighbours in the list of shards go to different jobs, and so to different GPUs.
            task, tasks = place * jobs + job, places * jobs
        self.task, self.tasks = task, tasks
        if not 0 <= self.task < self.tasks:
            raise UserError(f"Expected engine.task from 0 to {self.tasks - 1}, but got {self.task}.")
        if heartbeat_s <= 0:
            raise UserError(f"Expected engine.heartbeat_s above 0, but got {heartbeat_s}.")
        if expiry_s < 3 * heartbeat_s:
            raise UserError(
                f"Expected engine.expiry_s of at least 3 times engine.heartbeat_s={heartbeat_s}, but got {expiry_s}."
            )
        self.heartbeat_s, self.expiry_s = heartbeat_s, expiry_s

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> Failures:
        """Label some shards of a folder, together with the other tasks; see `base.Engine`."""
        task = _Task(labeller, images, out, Leases(out / LEASES, self.heartbeat_s, self.expiry_s))
        # Own shards first; then those of the next task, and so on, so that thieves spread out.
        left = sorted(waiting, key=lambda number: ((number - self.task) % self.tasks, number))
        for number in left:
            task.note(number).unlink(missing_ok=True)  # of an earlier run
        with ProgressBar("label", sum(shard_length(images, number) for number in left)) as bar:
            while left:
                still = [n for place, n in enumerate(left) if not task.settle(n, _behind(left, place), bar)]
                if len(still) == len(left):  # others are at work on all that is left
                    time.sleep(self.heartbeat_s / 2)
                left = still
        task.leases.clear()
        return task.failures


@dataclass
class _Task:
    """What a task does about one shard after another."""

    labeller: ShardLabeller
    images: ShardFolder
    out: Path
    leases: Leases
    failures: Failures = field(default_factory=dict)

    def settle(self, number: int, then: Iterable[int], bar: ProgressBar) -> bool:
        """Label a shard unless others did, or are at it; whether nothing is left to be done about it.

        Args:
            number: number of the shard.
            then: numbers of the shards that come after it, the next one first.
            bar: told of images that have labels.
        """
        if find_manifest(self.out, self.images, number, self.labeller.identity) is not None:
            bar.advance(shard_length(self.images, number))
            return True
        with suppress(FileNotFoundError):
            note_failure(self.failures, number, self.note(number).read_text())
            return True
        lease = self.leases.take(self._tar(number).stem)
        if lease is None:
            return False
        with lease:
            look_again(self.out)
            ahead = next((other for other in then if not self._begun(other)), None)
            try:
                label_shard(self.labeller, self.images, number, self.out, bar.advance, lease.check, ahead)
            except LeaseLost:
                return False
            except BadShard as error:
                note_failure(self.failures, number, str(error))
                write_bytes(self.note(number), str(error).encode())
        return True

    def note(self, number: int) -> Path:
        """Where it says why a shard cannot be labelled."""
        return self.leases.folder / f"{self._tar(number).stem}.failed"

    def _begun(self, number: int) -> bool:
        mark = manifest_path(self.out, self._tar(number))
        return self.leases.held(self._tar(number).stem) or mark.exists() or self.note(number).exists()

    def _tar(self, number: int) -> AnyPath:
        return self.images.shards[number]


def _behind(numbers: Sequence[int], place: int) -> Iterator[int]:
    """What comes after a place. Not a slice: one for each shard would copy the square of their number."""
    return (numbers[later] for later in range(place + 1, len(numbers)))


def _from_slurm(variable: str, default: str = "") -> int:
    value = os.environ.get(variable, default)
    if not value.isdecimal():
        raise UserError(
            f"Expected {variable} from a SLURM array, but it is {value!r}; submit with --array, or name engine.task= "
            "and engine.tasks=."
        )
    return int(value)
