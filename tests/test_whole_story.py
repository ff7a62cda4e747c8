"""Teacher, labels, student, evaluation: the real commands, one after another, in the smallest size."""

import json

import pytest
from scenes import write_shards

from data_engine.label import main as label
from depth_anything_train import DepthAnything
from depth_anything_train.evaluate import main as evaluate
from depth_anything_train.train import main as train


@pytest.fixture
def run(monkeypatch):
    """Call a command as the program would."""

    def call(main, *arguments):
        monkeypatch.setattr("sys.argv", ["depth-anything", *map(str, arguments)])
        main()

    return call


def test_teacher_labels_student_evaluation(run, tmp_path):
    labelled = write_shards(tmp_path / "labelled", "labelled")
    images = write_shards(tmp_path / "images", "images", first=100)
    tests = write_shards(tmp_path / "tests", "labelled", counts=(4,), first=200)
    common = ["steps=3", f"labelled=[{labelled}]", "trainer=cpu", "workers=0", "checkpoint.every_n_steps=2"]

    run(train, "experiment=tiny_teacher", f"out={tmp_path / 'teacher'}", *common)
    run(label, f"teacher={tmp_path / 'teacher'}", f"shards={images}", f"out={tmp_path / 'labels'}", "device=cpu")
    unlabelled = f"unlabelled=[{tmp_path / 'labels'}]"
    run(train, "experiment=tiny_student", f"out={tmp_path / 'student'}", unlabelled, *common, "preview.every_n_steps=2")
    run(evaluate, f"model={tmp_path / 'student'}", f"data={tests}", f"out={tmp_path / 'evaluation'}")

    rows = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(f"train/loss/{name}" in rows[-1] for name in ("labelled", "pseudo", "feature"))
    assert (tmp_path / "student" / "previews" / "step-00000002.png").stat().st_size > 1000
    assert (tmp_path / "evaluation" / "results.json").exists()

    student = DepthAnything.from_pretrained(tmp_path / "student")
    assert DepthAnything.from_pretrained(tmp_path / "teacher").hash != student.hash
    assert student.extra["experiment"] == "tiny_student" and student.extra["steps"] == 3
    own, pseudo = student.extra["data"]
    assert (own["source"], own["images"], pseudo["kind"]) == ("scenes", 11, "pseudo_labels")
    assert (pseudo["teacher"]["experiment"], pseudo["teacher"]["data"]) == ("tiny_teacher", [own])
    assert not any(name.startswith("frozen") for name in student.model.state_dict())
