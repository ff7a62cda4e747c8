"""Labelling as one of several tasks that know nothing of each other but their number: a SLURM array, for instance.

Task k of n begins with every n-th shard, so that tasks seldom meet. When its own are done it takes what others have not
begun, and shards whose leases were left by dead tasks. It ends when all shards are done, whoever did them. A shard that
cannot be labelled gets a note beside the leases, which the other tasks believe; the next run tries it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from data_engine.engines.base import Failures, label_shard, note_failure, shard_length
from data_engine.engines.leases import LeaseLost, Leases, look_again
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.manifest import find_manifest, manifest_path
from depth_anything_train.data.schema import BadShard
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import write_bytes
from depth_anything_train.runtime import ProgressBar, UserError

LEASES = ".leases"
TASK, FIRST_TASK, TASKS = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"


class ArrayEngine:
    """One task of an array, in this process.

    Args:
        task: number of this task, from 0; None takes it from SLURM.
        tasks: how many tasks there are; None takes it from SLURM.
        heartbeat_s: seconds between two signs of life that a task gives.
        expiry_s: seconds without one after which others take over its shard; at least three times `heartbeat_s`.

    Raises:
        UserError: there is no such task.
    """

    def __init__(
        self, task: int | None = None, tasks: int | None = None, heartbeat_s: float = 10, expiry_s: float = 60
    ) -> None:
        self.task = _from_slurm(TASK) - _from_slurm(FIRST_TASK) if task is None else task
        self.tasks = _from_slurm(TASKS) if tasks is None else tasks
        if not 0 <= self.task < self.tasks:
            raise UserError(f"Expected engine.task from 0 to {self.tasks - 1}, but came {self.task}.")
        if heartbeat_s <= 0:
            raise UserError(f"Expected engine.heartbeat_s above 0, but came {heartbeat_s}.")
        if expiry_s < 3 * heartbeat_s:
            raise UserError(
                f"Expected engine.expiry_s of at least 3 times engine.heartbeat_s={heartbeat_s}, but came {expiry_s}."
            )
        self.heartbeat_s, self.expiry_s = heartbeat_s, expiry_s

    def run(self, labeller: ShardLabeller, images: ShardFolder, waiting: Sequence[int], out: Path) -> Failures:
        """Label some shards of a folder, together with the other tasks; see `base.Engine`."""
        leases = Leases(out / LEASES, self.heartbeat_s, self.expiry_s)
        notes = [leases.folder / f"{tar.stem}.failed" for tar in images.shards]
        failures: Failures = {}

        def begun(number: int) -> bool:
            return leases.held(images.shards[number].stem) or manifest_path(out, images.shards[number]).exists()

        # Own shards first; then those of the next task, and so on, so that thieves spread out.
        left = sorted(waiting, key=lambda number: ((number - self.task) % self.tasks, number))
        for number in left:
            notes[number].unlink(missing_ok=True)  # of an earlier run
        with ProgressBar("label", sum(shard_length(images, number) for number in left)) as bar:
            while left:
                before = len(left)
                for number in list(left):
                    settled = True
                    if find_manifest(out, images, number, labeller.identity) is not None:
                        bar.advance(shard_length(images, number))
                    elif notes[number].exists():
                        note_failure(failures, number, notes[number].read_text())
                    elif lease := leases.take(images.shards[number].stem):
                        with lease:
                            look_again(out)
                            try:
                                ahead = next((other for other in left if not begun(other)), None)
                                label_shard(labeller, images, number, out, bar.advance, lease.check, ahead)
                            except LeaseLost:
                                settled = False
                            except BadShard as error:
                                note_failure(failures, number, str(error))
                                write_bytes(notes[number], str(error).encode())
                    else:
                        settled = False
                    if settled:
                        left.remove(number)
                if left and len(left) == before:  # others are at work on all that is left
                    time.sleep(self.heartbeat_s / 2)
        leases.clear()
        return failures


def _from_slurm(variable: str) -> int:
    value = os.environ.get(variable, "")
    if not value.isdecimal():
        raise UserError(
            f"Expected {variable} from a SLURM array, but it is {value!r}; submit with --array, or name engine.task= "
            "and engine.tasks=."
        )
    return int(value)
