"""Labelling as an array of SLURM jobs."""

from __future__ import annotations

import pytest
from scenes import write_shards

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.labelling.teacher import ModelTeacher
from depth_anything_train.composition import compose
from depth_anything_train.train import train


@pytest.mark.slurm
def test_labelling__an_array_of_two_jobs_of_two_processes_writes_what_one_process_writes(slurm, tmp_path):
    labelled = write_shards(tmp_path / "labelled", "labelled")
    images = write_shards(tmp_path / "images", "images", counts=(6, 5, 6, 5), first=100)
    run = train(
        compose(
            "train", ["experiment=tiny_teacher", f"out={tmp_path / 'teacher'}", f"labelled=[{labelled}]", "steps=2"]
        )
    )
    small = ["--array=0-1", "--ntasks=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={tmp_path / 'log'}-%a"]
    keys = [f"teacher={run}", f"shards={images}", f"out={tmp_path / 'array'}", "device=cpu", "threads=1"]
    job = slurm.submit(*small, "slurm/label.sbatch", *keys)
    for task in range(2):
        slurm.wait(f"{job}_{task}", lambda facts: facts["JobState"] == "COMPLETED", log=tmp_path / f"log-{task}")

    teacher = ModelTeacher(run, device="cpu", threads=1)
    labeller = ShardLabeller(teacher, LabelSettings(size=teacher.size))
    label(labeller, images, tmp_path / "local", engine=LocalEngine())
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert sorted(path.name for path in (tmp_path / "array").iterdir()) == names
    for name in names:
        assert (tmp_path / "array" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
