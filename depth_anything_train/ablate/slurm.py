"""Jobs as jobs of SLURM, each after those it needs; the last one writes the table."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_anything_train.ablate.jobs import Job, short_hash
from depth_anything_train.locks import only_run_in
from depth_anything_train.runtime import UserError, console

LAUNCH = Path("slurm/launch.sh")


class Slurm:
    """Submits what is neither finished nor in the queue, and does not wait for it.

    Args:
        options: command -> options of `sbatch`: name -> value, true for a flag, null to leave it out; those of `ablate`
            are for the job that writes the table.

    Raises:
        UserError: there is no SLURM here, or no checkout of this project.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]]) -> None:
        self.options = options
        if not LAUNCH.is_file():
            raise UserError(f"Expected {LAUNCH} in this folder, but it is not there; start in the checkout.")
        if not shutil.which("sbatch"):
            raise UserError("Expected SLURM's sbatch on the path, but it is not there; is this a login node?")

    def run(self, jobs: Sequence[Job], out: Path, typed: Sequence[str]) -> None:
        """Submit the jobs, each of which stands after those it needs, and the command that was typed after all.

        That last job runs on one machine, where everything is finished by then, and writes the table. Of two calls at
        once the second looks at the queue when the first has submitted.

        Raises:
            UserError: SLURM refused a job.
        """
        logs = out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with only_run_in(out):
            self._submit_all(jobs, out, typed, logs)

    def _submit_all(self, jobs: Sequence[Job], out: Path, typed: Sequence[str], logs: Path) -> None:
        before = _queued()
        queued = dict(before)
        place = short_hash([str(out.resolve())])  # the same job for another folder is another job

        def name(job: Job) -> str:
            return f"{job.name}-{place}"

        for job in jobs:
            if not job.finished() and name(job) not in queued:
                after = [queued[name(needed)] for needed in job.needs if name(needed) in queued]
                queued[name(job)] = self._submit(job.command, name(job), job.arguments, after, logs)
        waiting = [queued[name(job)] for job in jobs if name(job) in queued]
        again = ["ablate", *(key for key in typed if not key.startswith("launcher")), "launcher=local"]
        last = f"ablate-{short_hash(again)}-{place}"
        if queued != before or waiting and last not in before:
            self._submit("ablate", last, again, waiting, logs)

    def _submit(self, command: str, name: str, arguments: Sequence[str], after: Sequence[str], logs: Path) -> str:
        options = ["--parsable", f"--job-name={name}", f"--output={logs / name}-%j.log", "--open-mode=append"]
        if after:
            options += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        line = ["sbatch", *options, *_options(self.options.get(command, {})), str(LAUNCH), *arguments]
        number = _output(line).strip().partition(";")[0]
        console.print(f"{number}: {shlex.join(['depth-anything', *arguments])}", style="dim", soft_wrap=True)
        return number


def _options(given: Mapping[str, Any]) -> list[str]:
    named = {name: value for name, value in given.items() if value is not None and value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items()]


def _queued() -> dict[str, str]:
    """This user's jobs that wait or run: name -> number."""
    lines = _output(["squeue", "--me", "--noheader", "--format=%A %j"]).splitlines()
    return {name: number for number, _, name in (line.strip().partition(" ") for line in lines)}


def _output(line: Sequence[str]) -> str:
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"SLURM refused {shlex.join(line)}: {' '.join(done.stderr.split())}")
    return done.stdout
