"""Jobs one after another on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depth_anything_train.ablate.jobs import Job
from depth_anything_train.locks import only_run_in
from depth_anything_train.pipeline import run_stage
from depth_anything_train.runtime import console
from depth_anything_train.signals import leaving_on_request


class Local:
    """Runs what is not finished; an interrupted job continues where it stood."""

    def run(self, jobs: Sequence[Job], out: Path, typed: Sequence[str]) -> None:
        """Run the jobs in order; each comes after those it needs.

        Raises:
            UserError: a job failed.
            SystemExit: with `RUN_AGAIN` if it was asked to stop; what is finished is kept.
        """
        with leaving_on_request(), only_run_in(out):
            for number, job in enumerate(jobs, 1):
                place = f"({number}/{len(jobs)}) {job.name}"
                if job.finished():
                    console.print(f"{place}: finished before", style="dim")
                else:
                    console.print(place, style="bold")
                    run_stage(job.stage)
