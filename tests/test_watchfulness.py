"""What a run says about itself while it trains: every number that is promised, for whoever watches."""

import json

import numpy as np
import pytest
import safetensors
import torch
from scenes import write_shards
from torch.utils.flop_counter import FlopCounterMode

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.run_folder import read_metrics
from depth_anything_train.runtime import UserError
from depth_anything_train.train import train


def student_config(folder, out, *more):
    """A student on two labelled sets and one with pseudo labels, which are the scenes' own disparity."""
    from test_report import write_pseudo_labels

    sets = []
    for number, name in enumerate(("near", "far")):
        sets.append(write_shards(folder / name, "labelled", first=20 * number))
        (sets[-1] / "dataset.json").write_text(json.dumps({"schema": 1, "kind": "labelled", "source": name}))
    images = write_shards(folder / "images", "images", first=100)
    labels = write_pseudo_labels(folder / "labels", images)
    data = [f"labelled=[{sets[0]},{sets[1]}]", f"unlabelled=[{labels}]"]
    return compose("train", ["experiment=tiny_student", f"out={out}", *data, *more])


def test_run__logs_all_that_is_worth_a_look(tmp_path):
    run = train(student_config(tmp_path, tmp_path / "run", "steps=4", "log_every_n_steps=2", "data.batch.labelled=6"))
    rows, machine = read_metrics(run / "metrics.jsonl"), read_metrics(run / "machine.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in machine] == [2, 4]
    for row in rows:
        losses = [row[f"train/loss/{name}"] for name in ("labelled", "pseudo", "feature")]
        assert row["train/loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
        assert row["train/gradient_norm"] > 0
        assert row["train/lr/decoder"] == pytest.approx(10 * row["train/lr/encoder"], rel=1e-6)
        assert 0 <= row["train/disparity/min"] <= row["train/disparity/median"] <= row["train/disparity/max"]
        assert row["train/trimmed_pixels"] == pytest.approx(0.1, abs=0.01)
        assert 0 <= row["train/patches_above_margin"] <= 1
        by_source = [row[name] for name in ("train/source/near", "train/source/far") if name in row]
        assert by_source and min(by_source) <= row["train/loss/labelled"] <= max(by_source)
    for row in machine:
        assert row["machine/images_per_second"] > 0 and row["machine/tflops_per_device"] > 0
        assert 0 < row["machine/data_wait_share"] < 1
        assert 0.05 < row["machine/memory_gb"] < 100


def test_run__a_step_in_parts_has_the_numbers_of_the_whole(tmp_path):
    given = ["steps=2", "log_every_n_steps=1", "optim.encoder_lr=1e-7", "optim.decoder_lr=1e-7"]
    given += ["data.batch.labelled=4", "data.batch.unlabelled=8", "preview.every_n_steps=1"]
    whole = train(student_config(tmp_path, tmp_path / "whole", *given))
    parts = train(student_config(tmp_path, tmp_path / "parts", *given, "max_per_device=6"))
    rows = [read_metrics(run / "metrics.jsonl") for run in (whole, parts)]
    assert {"train/source/near", "train/source/far", "train/patches_above_margin"} <= {*rows[0][0], *rows[0][1]}
    for one, other in zip(*rows, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert read_metrics(parts / "machine.jsonl")[-1]["machine/images_per_second"] > 0
    assert len([*(parts / "previews").iterdir()]) == 2


@pytest.mark.parametrize("experiment", ["tiny_teacher", "tiny_student"])
def test_count_flops__is_what_torch_counts_in_a_real_step(tmp_path, experiment):
    cfg = student_config(tmp_path, tmp_path / "run")
    if experiment == "tiny_teacher":
        given = [f"experiment={experiment}", "out=x", f"labelled=[{cfg.labelled[0]}]"]
        cfg = compose("train", given)
    model = build(cfg.model)
    task = build(cfg.task, model=model, optim=build(cfg.optim), steps=1)
    batch = build(cfg.data).batch(0)
    task.combine = lambda losses: sum(losses.values())
    with FlopCounterMode(display=False) as counter:
        task.training_step(batch, 0).backward()
    # The CPU's attention computes its scores once more in the backward pass: one small product of tokens a head.
    assert counter.get_total_flops() == pytest.approx(task.count_flops(batch), rel=1e-3)


def test_guard__puts_the_batch_of_a_skipped_step_aside_as_it_was(tmp_path, capsys):
    cfg = student_config(tmp_path, tmp_path / "run", "optim.decoder_lr=1e30", "optim.encoder_lr=1e30", "steps=9")
    cfg.guard.max_in_a_row = 3
    with pytest.raises(UserError, match="3 steps in a row.*bad_batches"):
        train(cfg)
    said = capsys.readouterr().err
    saved = sorted((tmp_path / "run" / "bad_batches").glob("*.safetensors"))
    assert len(saved) == 3 and all(path.with_suffix(".png").exists() for path in saved)
    assert str(saved[0]) in said.replace("\n", "")
    step = int(saved[1].stem.removeprefix("step-"))
    assert f"Step {step} is skipped" in said
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if not np.isfinite(row["train/gradient_norm"])][1] == step
    expected = build(cfg.data).batch(step - 1)
    with safetensors.safe_open(saved[1], "pt") as file:
        assert file.metadata()["step"] == str(step)
        for stream, content in expected.items():
            assert json.loads(file.metadata()[f"{stream}/key"]) == content["key"]
            assert json.loads(file.metadata()[f"{stream}/source"]) == content["source"]
            assert torch.equal(file.get_tensor(f"{stream}/image"), content["image"])
            assert torch.equal(file.get_tensor(f"{stream}/disparity"), content["disparity"])
            assert np.array_equal(file.get_tensor(f"{stream}/position"), np.arange(len(content["key"])))


def test_batch__is_the_one_that_the_loader_gives(tmp_path):
    data = build(student_config(tmp_path, tmp_path / "run").data)
    for step, batch in zip(range(2), data.loader(stop=2), strict=False):
        again = data.batch(step)
        for stream in ("labelled", "unlabelled"):
            assert again[stream]["key"] == batch[stream]["key"]
            assert torch.equal(again[stream]["image"], batch[stream]["image"])
