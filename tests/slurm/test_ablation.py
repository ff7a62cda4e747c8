"""A table's jobs in the queue of SLURM, each after those it needs."""

from __future__ import annotations

import pytest
from scenes import write_shards

from depth_anything_train.files import read_json

ONE = {
    "train": {"ntasks-per-node": 1, "gpus-per-node": "null", "cpus-per-task": 1},
    "label": {"gpus": "null", "cpus-per-task": 1},
    "evaluate": {"gpus": "null", "cpus-per-task": 1},
}
TINY = "{model: test, trainer: cpu, steps: 2, size: 28, encoder: none, precision: 32-true, compile: false, workers: 0}"


@pytest.mark.slurm
def test_ablation__the_last_job_writes_the_table(slurm, tmp_path):
    labelled = write_shards(tmp_path / "labelled", "labelled")
    images = write_shards(tmp_path / "images", "images", first=100)
    rows = "[{label: labels,experiment: tiny_teacher},{label: both,experiment: tiny_student}]"
    keys = ["table=v1_table9", "scale=paper", f"out={tmp_path / 'out'}", f"train={TINY}", "label={device: cpu}"]
    keys += [f"table.rows={rows}", "table.teacher=tiny_teacher", "table.labelled=[a]", "table.unlabelled=[b]"]
    keys += [f"labelled={{a: {labelled}}}", f"unlabelled={{b: {images}}}", f"benchmarks={{nyu: {labelled}}}"]
    options = [f"launcher.options.{c}.{name}={value}" for c, each in ONE.items() for name, value in each.items()]
    submit = ["depth-anything", "ablate", *keys, "launcher=slurm", *options]

    def queue():
        return [tuple(line.split()) for line in slurm.run("squeue", "--noheader", "--format=%A %j").splitlines()]

    slurm.run(*submit)
    submitted = queue()
    slurm.run(*submit)
    assert set(queue()) <= set(submitted), "what is in the queue is not submitted twice"

    logs = tmp_path / "out" / "logs"
    for number, name in submitted:
        slurm.wait(number, lambda facts: facts["JobState"] == "COMPLETED", log=logs / f"{name}-{number}.log")
    table = read_json(tmp_path / "out" / "tables" / "v1_table9.json")
    assert [list(row["models"]) for row in table["rows"]] == [["0"], ["0"]]
