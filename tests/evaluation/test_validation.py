"""Judging while training: real runs of a few steps on small scenes."""

import json

import numpy as np
import pytest
from scenes import encode, scene, write_shards

from data_engine.writer import ShardWriter
from depth_anything_train.composition import compose
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.test_sets import open_data
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.run_folder import read_metrics
from depth_anything_train.runtime import UserError
from depth_anything_train.train import train

PROTOCOL = DepthProtocol(name="validation", alignment="none", cap_m=40.0)


def config(tmp_path, *changes, experiment="tiny_metric"):
    names = [f"labelled=[{tmp_path / 'train'}]", f"validation=[{tmp_path / 'held_out'}]"]
    return compose("train", [f"experiment={experiment}", f"out={tmp_path / 'run'}", "steps=4", *names, *changes])


@pytest.fixture
def folders(tmp_path):
    write_shards(tmp_path / "train", "labelled")
    write_shards(tmp_path / "held_out", "labelled", counts=(3,), first=50)
    return tmp_path


def test_run__is_judged_before_while_and_after_and_keeps_the_best(folders):
    run = train(config(folders, "validate.every_n_steps=3", "optim.lr=0.02"))
    rows = read_metrics(run / "validation" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 3, 4] and {row["images"] for row in rows} == {3}
    best = json.loads((run / "best" / "model.json").read_text())["extra"]
    assert best["validation"]["abs_rel"] == min(row["abs_rel"] for row in rows)
    assert best["steps"] == min(rows, key=lambda row: row["abs_rel"])["step"]
    model = DepthAnything.from_pretrained(run, device="cpu")
    image, _ = scene(50)
    prediction = model.predict(image)
    assert prediction.depth_m.shape == image.shape[:2] and (prediction.depth_m > 0).all()
    assert model.extra["encoder"] == "none" and model.extra["experiment"] == "tiny_metric"

    # The same images under the same protocol through `evaluate` have the same numbers.
    data = open_data([str(folders / "held_out")])
    assert rows[-1] == {"step": 4, "images": 3, **evaluate(model, data, PROTOCOL).mean()}


def test_run__continues_with_its_rows_and_is_not_changed_by_being_judged(folders):
    settings = config(folders, "checkpoint.every_n_steps=2", "validate.every_n_steps=2")
    cut = train(settings)
    whole = read_metrics(cut / "validation" / "metrics.jsonl")
    for name in ("finished.json", "checkpoints/step-00000004.ckpt", "checkpoints/step-00000004.json"):
        (cut / name).unlink()
    train(settings)
    assert read_metrics(cut / "validation" / "metrics.jsonl") == whole
    assert [row["step"] for row in whole] == [0, 2, 4]
    alone = train(config(folders, "validation=[]", f"out={folders / 'alone'}"))
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (cut / name).read_bytes() == (alone / name).read_bytes()


def test_run__the_best_is_not_compared_with_what_was_judged_on_other_data(folders, capsys):
    settings = ["steps=2", "checkpoint.every_n_steps=1", "validate.every_n_steps=1"]
    run = train(config(folders, *settings))
    record = run / "best" / "model.json"
    content = json.loads(record.read_text())
    content["extra"]["validation"]["abs_rel"] = 0.0  # no model can be better
    record.write_text(json.dumps(content))

    def judged_again(folder):
        for name in ("finished.json", "checkpoints/step-00000002.ckpt", "checkpoints/step-00000002.json"):
            (run / name).unlink()
        train(config(folders, *settings, f"validation=[{folders / folder}]"))
        return json.loads(record.read_text())["extra"], capsys.readouterr().err

    best, said = judged_again("held_out")
    assert best["validation"]["abs_rel"] == 0 and "gives its place" not in said
    write_shards(folders / "others", "labelled", counts=(2,), first=70)
    best, said = judged_again("others")
    newest = read_metrics(run / "validation" / "metrics.jsonl")[-1]
    assert best["steps"] == newest["step"] == 2 and best["validation"]["images"] == 2
    assert best["validation"]["abs_rel"] == newest["abs_rel"]
    assert said.count("gives its place") == 1


def test_run__a_model_starts_from_a_relative_one(folders):
    relative = train(
        config(folders, "validation=[]", f"out={folders / 'relative'}", "steps=1", experiment="tiny_teacher")
    )
    run = train(config(folders, f"init={relative}", "validation=[]", "steps=1"))
    record = json.loads((run / "model" / "model.json").read_text())["extra"]
    assert record["init"]["experiment"] == "tiny_teacher" and record["init"]["data"][0]["source"] == "scenes"
    assert record["init"]["hash"] == json.loads((relative / "model" / "model.json").read_text())["sha256"]


def test_run__says_once_what_validation_leaves_out(folders, capsys):
    with ShardWriter(folders / "held_out" / "more.tar") as writer:
        image, disparity = scene(60)
        meta = {"source": "scenes", "kind": "labelled", "quantity": "disparity", "unit": "m", "scale": 1.0}
        label = encode_dz16(disparity, np.zeros(disparity.shape, bool))
        writer.add("blank", {"jpg": encode(image), "disparity.dz16": label, "json": json.dumps(meta).encode()})
        writer.commit()
    run = train(config(folders, "steps=1"))
    assert {row["images"] for row in read_metrics(run / "validation" / "metrics.jsonl")} == {3}
    said = capsys.readouterr().err
    assert said.count("run: validation leaves out what cannot be judged, 1 x too_few_valid_pixels.") == 1


def test_run__validation_on_what_is_trained_on_is_refused(folders):
    with pytest.raises(UserError, match="is trained on"):
        train(config(folders, f"validation=[{folders / 'train'}]"))
    routed = ["task=metric_routed", "data=metric_two", "~data.batch.labelled", "data.batch.nyu=1", "data.batch.kitti=1"]
    domains = ["model.bins.domains=[[nyu,0.001,10.0],[kitti,0.001,80.0]]", "model.max_depth_m=80"]
    streams = [f"+nyu=[{folders / 'train'}]", f"+kitti=[{folders / 'held_out'}]", "data.sources.kitti.crop=none"]
    with pytest.raises(UserError, match="held_out stands under validation and is trained on"):
        train(config(folders, *routed, *domains, *streams))


def test_run__that_is_finished_says_that_validation_comes_too_late(folders, capsys):
    run = train(config(folders, "steps=1", "validation=[]"))
    train(config(folders, "steps=1", "validation=[]"))
    assert "too late" not in capsys.readouterr().err
    train(config(folders, "steps=1"))
    assert "run is finished: its model is in" in (said := capsys.readouterr().err)
    assert "validation= comes too late, judge that model with `evaluate`" in said
    assert not (run / "validation").exists()
