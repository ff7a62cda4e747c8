"""SIGKILL at random moments of labelling jobs, on 1, 2 and 4 workers, on local processes and on Ray.

    OMP_NUM_THREADS=1 python benchmarks/kills.py [kills] [seed]

`kills` (102) are shared out among the six combinations. One in six ends the whole run, which is then started again; the
others end one worker. A stub teacher of 10 ms an image makes shards of 40 images last long enough to be hit. After each
killed run every shard that counts as done is compared with its manifest; at the end all bytes with those of a job that
nobody disturbed, and the images that were predicted with those that there are. About 15 minutes on 2 cores.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))  # what kills is shared with the tests
os.environ["PYTHONPATH"] = str(TESTS)  # and the stub teacher goes to Ray's workers

from killing import Job, alive, contents, killing_workers, torn, wait_until  # noqa: E402
from scenes import write_shards  # noqa: E402

LENGTH, SECONDS = 40, 0.01  # images a shard, seconds an image
PAUSE = (0.2, 1.2)  # between two kills, seconds
RESTART = {"local": 1.5, "ray": 3.0}  # seconds that a lost worker may cost: jobs have to outlast their kills
RUN_KILLS = 1 / 6


def engine(kind: str, workers: int) -> dict[str, Any]:
    if kind == "ray":
        return {"kind": "ray", "workers": workers, "cpus_per_worker": 1 / workers, "retries": 99}
    return {"kind": "local", "processes": workers, "retries": 99}


def disturb(job: Job, workers: int, kills: int, rng: random.Random) -> tuple[int, int, int]:
    """Run a job to its end through `kills` kills; workers killed, runs killed, torn shards seen."""
    planned = max(round(kills * RUN_KILLS), 1)
    worker_kills = run_kills = bad = 0
    for _ in range(planned):
        process = job.start()
        done = len(list(job.out.glob("shard-*.json")))
        wait_until(lambda: not process.is_alive() or len(list(job.out.glob("shard-*.json"))) > done, 120)  # noqa: B023
        with killing_workers(job, (kills - planned) // planned, rng, PAUSE) as killed:
            process.join(rng.uniform(0, sum(PAUSE) * kills / planned))
        at_work = job.workers()
        run_kills += process.is_alive()
        process.kill()
        process.join()
        worker_kills += len(killed)
        bad += len(torn(job.out))
        wait_until(lambda: not any(map(alive, at_work)))  # noqa: B023
    process = job.start()
    with killing_workers(job, kills - planned - worker_kills, rng, PAUSE) as killed:
        process.join()
    assert process.exitcode == 0, f"the last run ended with status {process.exitcode}"
    return worker_kills + len(killed), run_kills, bad + len(torn(job.out))


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 102
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    combinations = [(kind, workers) for kind in ("local", "ray") for workers in (1, 2, 4)]
    each = -(-kills // len(combinations))
    rows = ["engine workers  images  kills: workers runs  torn  lost or other bytes  done again  allowed  seconds"]
    failed = False
    with tempfile.TemporaryDirectory() as name:
        for kind, workers in combinations:
            folder = Path(name) / f"{kind}-{workers}"
            # As long as all kills, with the pauses between them and what starts again after each.
            shards = max(int(each * (sum(PAUSE) / 2 + RESTART[kind]) * workers / (LENGTH * SECONDS)), 2 * workers)
            images = write_shards(folder / "images", "images", counts=(LENGTH,) * shards)
            undisturbed = Job(images, folder / "undisturbed", seconds=0)
            undisturbed.run()
            job = replace(undisturbed, out=folder / "out", seconds=SECONDS, engine=engine(kind, workers))
            start = time.monotonic()
            worker_kills, run_kills, bad = disturb(job, workers, each, rng)
            expected, found = contents(undisturbed.out), contents(job.out)
            other = sum(found.get(file) != expected.get(file) for file in expected.keys() | found.keys())
            again = job.predicted() - LENGTH * shards
            allowed = LENGTH * (worker_kills + workers * run_kills)
            failed |= bool(bad or other or again > allowed)
            rows.append(
                f"{kind:6} {workers:7} {LENGTH * shards:7} {worker_kills:14} {run_kills:4} {bad:5} {other:20} "
                f"{again:11} {allowed:8} {time.monotonic() - start:8.0f}"
            )
            print(rows[-1], file=sys.stderr, flush=True)
    print("\n".join(rows))  # together, because Ray reports its dead in between
    sys.exit(failed)


if __name__ == "__main__":
    main()
