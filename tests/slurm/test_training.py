"""Training as a SLURM job: preempted, requeued, continued, with the weights of an undisturbed run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scenes import write_shards

from depth_anything_train.run_folder import read_metrics

STEPS = 60


def submit(slurm, folder: Path, *more: str, steps: int = STEPS) -> str:
    """The sbatch file of the project, at the smallest size: two tasks on two cores."""
    small = ["--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--export=ALL,EXPERIMENT=tiny_teacher"]
    labelled = write_shards(folder / "labelled", "labelled")
    keys = [f"out={folder / 'run'}", f"labelled=[{labelled}]", f"steps={steps}", "checkpoint.every_n_steps=1000"]
    return slurm.submit(*small, f"--output={folder / 'log'}", "slurm/teacher.sbatch", *keys, *more)


def finished(facts):
    return facts["JobState"] == "COMPLETED"


@pytest.mark.slurm
def test_training__tasks_that_would_not_know_of_each_other_are_refused(slurm, tmp_path):
    job = submit(slurm, tmp_path, "trainer.devices=1")  # of the two tasks each would train, into the same folder
    slurm.wait(job, lambda facts: facts["JobState"] == "FAILED", log=tmp_path / "log")
    log = " ".join((tmp_path / "log").read_text().split())
    assert "to be the 2 processes that srun started, but got 1 times 1; set them to --ntasks-per-node" in log, log
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [], "no step was taken"


@pytest.mark.slurm
def test_training__preempted_and_requeued_ends_with_the_weights_of_an_undisturbed_run(slurm, tmp_path):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    job = submit(slurm, whole)
    slurm.wait(job, finished, log=whole / "log")

    job = submit(slurm, disturbed)
    while len(read_metrics(disturbed / "run" / "metrics.jsonl")) < 3:
        assert slurm.facts(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), (disturbed / "log").read_text()
        time.sleep(0.1)
    urgent = slurm.submit("--partition=high", "--ntasks=2", f"--output={tmp_path / 'urgent'}", "--wrap=sleep 1")
    slurm.wait(job, finished, log=disturbed / "log")

    assert finished(slurm.facts(urgent))
    assert slurm.facts(job)["Restarts"] == "1"
    log = (disturbed / "log").read_text()
    assert "was asked to stop and is saved" in log, log
    weights = [(folder / "run" / "model" / "model.safetensors").read_bytes() for folder in (whole, disturbed)]
    assert weights[0] == weights[1]
    numbers = [(folder / "run" / "metrics.jsonl").read_text() for folder in (whole, disturbed)]
    assert numbers[0] == numbers[1]
