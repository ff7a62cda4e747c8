"""What is submitted, by a queue that is a file; tests/slurm has a real one."""

import multiprocessing
import os

import pytest

from depth_anything_train.ablate.jobs import Job
from depth_anything_train.ablate.slurm import Slurm

SQUEUE = """#!/bin/sh
cat $QUEUE
sleep 0.5
"""
SBATCH = """#!/bin/sh
for option; do case $option in --job-name=*) name=${option#*=};; esac; done
echo "1$(wc -l < $QUEUE) $name" >> $QUEUE
tail -n 1 $QUEUE | cut -d " " -f 1
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, script in (("squeue", SQUEUE), ("sbatch", SBATCH)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    (tmp_path / "queue").touch()
    return tmp_path / "queue"


def submit(barrier, out):
    train = Job("train", (), out / "train" / "a")
    barrier.wait(60)
    Slurm({}).run([train, Job("evaluate", (), out / "evaluate" / "b", needs=(train,))], out, ["table=v1_table9"])


def test_slurm__two_calls_at_once_submit_each_job_once(queue, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    calls = [context.Process(target=submit, args=(barrier, tmp_path / "out")) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(120)
    assert [call.exitcode for call in calls] == [0, 0]
    names = [line.split()[1].rpartition("-")[0] for line in queue.read_text().splitlines()]
    assert names[:2] == ["train-a", "evaluate-b"] and len(names) == 3 and names[2].startswith("ablate-")
