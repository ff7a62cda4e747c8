"""Trainings that are killed and asked to stop, at every kind of moment, and the weights that they end with.

    OMP_NUM_THREADS=1 python benchmarks/faults.py [seed] [every]

The tiny teacher and the tiny student, on one rank and on two, each with SIGKILL and SIGTERM at a random step, at the
end of an epoch, in a validation (one before the first step and one behind the last among them), when half of a
checkpoint is written, and twice in a row: at a random step and in the first step after it. Loader processes (0, 2) and
writing in the background (off, on) take turns; with `every` each combination has all four. A row counts the runs, the
faults, the starts whose exit status was not as it should be, and the runs whose weights, or what their validations
said, differ from those of an undisturbed run in any bit.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))  # what strikes is shared with the tests

from striking import Fault, expected, judged, run_to_the_end, tiny_runs, weights  # noqa: E402

STEPS, EVERY, EPOCH = 12, 4, 11  # of a run, between checkpoints, images of the labelled shards
MOMENTS = ("random step", "epoch end", "validation", "checkpoint", "twice")


def plan(moment: str, number: signal.Signals, rank: int, batch: int, rng: random.Random) -> list[Fault]:
    """The faults of one run, in order."""
    step = rng.randrange(1, STEPS - 1)
    if moment == "epoch end":  # the step that takes the last image of the first epoch
        return [Fault(number, "step", EPOCH // batch, rank)]
    if moment == "twice":
        # After SIGKILL the run continues from a checkpoint; after SIGTERM from where it was.
        first = step // EVERY * EVERY if number == signal.SIGKILL else step + 1
        return [Fault(number, "step", step, rank), Fault(number, "step", first, rank)]
    # A checkpoint is written by rank zero.
    return {
        "random step": [Fault(number, "step", step, rank)],
        "validation": [Fault(number, "validation", rng.choice(range(0, STEPS + 1, EVERY)), rank)],
        "checkpoint": [Fault(number, "checkpoint", rng.choice((EVERY, 2 * EVERY)), 0)],
    }[moment]


def main() -> None:
    rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    settings = list(product((0, 2), (False, True)))
    turns = settings if sys.argv[2:3] == ["every"] else None
    print("experiment    ranks  signal   moment       runs  faults  wrong exits  other numbers  seconds")
    total: Counter[str] = Counter()
    count = 0
    with tempfile.TemporaryDirectory() as name:
        run = tiny_runs(Path(name), steps=STEPS, every=EVERY)
        for experiment, ranks in product(("tiny_teacher", "tiny_student"), (1, 2)):
            undisturbed = run(experiment, Path(name) / f"{experiment}-{ranks}")
            assert run_to_the_end(undisturbed, ranks=ranks) == []
            for number, moment in product((signal.SIGKILL, signal.SIGTERM), MOMENTS):
                start, row = time.monotonic(), Counter[str]()
                for workers, background in turns or [settings[count % 4]]:
                    count += 1
                    out = Path(name) / f"run-{count}"
                    cfg = run(experiment, out, f"workers={workers}", f"checkpoint.background={background}")
                    batch = cfg.data.batch.labelled
                    faults = plan(moment, number, rng.randrange(ranks), batch, rng)
                    ends = run_to_the_end(cfg, *faults, ranks=ranks)
                    wrong = [end for fault, end in zip(faults, ends, strict=True) if not expected(end, fault)]
                    same = all(of(out) == of(Path(undisturbed.out)) for of in (weights, judged))
                    row.update(runs=1, faults=len(faults), wrong=len(wrong), other=not same)
                total.update(row)
                print(
                    f"{experiment:13} {ranks:5}  {number.name:8} {moment:12} {row['runs']:4}  {row['faults']:6}  "
                    f"{row['wrong']:11}  {row['other']:13}  {time.monotonic() - start:7.1f}",
                    flush=True,
                )
    print(f"{'all':42}{total['runs']:5}  {total['faults']:6}  {total['wrong']:11}  {total['other']:13}")
    sys.exit(bool(total["wrong"] or total["other"]))


if __name__ == "__main__":
    main()
