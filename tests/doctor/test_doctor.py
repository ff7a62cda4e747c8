import json

import cv2
import numpy as np
import pytest
import torch
from test_report import write_pseudo_labels

from depth_anything_train.composition import compose
from depth_anything_train.data.sources import LabelledSource
from depth_anything_train.doctor.command import examine, main
from depth_anything_train.doctor.labels import judge, look
from depth_anything_train.doctor.outcome import STYLES
from depth_anything_train.doctor.precision import check_precision
from depth_anything_train.doctor.steps import Learning, check_overfit, learn
from depth_anything_train.runtime import UserError


@pytest.fixture
def given(tmp_path, labelled_shards, image_shards):
    labels = write_pseudo_labels(tmp_path / "labels", image_shards)
    data = [f"labelled=[{labelled_shards}]", f"unlabelled=[{labels}]"]
    return ["experiment=tiny_student", *data, f"out={tmp_path / 'doctor'}", "seconds=0.1", "num_samples=3"]


def test_examine__finds_a_sound_recipe_sound(given, tmp_path, capsys):
    outcomes = {outcome.check: outcome for outcome in examine(compose("doctor", given), tmp_path)}
    assert list(outcomes) == ["device", "attention", "disk", "labels", "precision", "overfit", "speed"]
    assert {outcomes[check].status for check in ("labels", "precision", "overfit")} == {"ok"}
    assert "images/s" in outcomes["speed"].message
    assert cv2.imread(str(tmp_path / "labels.png")).shape == (3 * (36 + 160 + 12), 2 * (3 * 213 + 12), 3)
    said = capsys.readouterr().err
    assert "scenes" in said and "a teacher's" in said


def test_look__a_damaged_sample_is_odd_and_no_end(labelled_shards):
    shard = labelled_shards / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 8] ^= 0xFF
    shard.write_bytes(content)
    seen = [*look(LabelledSource([labelled_shards]), 100)]
    (odd,) = [one for one in seen if one.doubts]
    assert odd.doubts == ("cannot be read (damaged_sample)",) and odd.key.startswith("sample ") and len(seen) == 11


def test_examine__takes_pairs_of_images_where_they_are_mixed(given, tmp_path):
    outcomes = {outcome.check: outcome for outcome in examine(compose("doctor", [*given, "batch_size=1"]), tmp_path)}
    assert outcomes["overfit"].status in STYLES and "on one batch" in outcomes["overfit"].message


def test_examine__a_schedule_that_ends_before_the_check_is_stretched(labelled_shards, tmp_path):
    data = [f"labelled=[{labelled_shards}]", f"out={tmp_path / 'doctor'}", "seconds=0.1", "num_samples=3"]
    recipe = ["experiment=tiny_metric", "overrides=['encoder=none']"]
    outcomes = {outcome.check: outcome for outcome in examine(compose("doctor", [*recipe, *data]), tmp_path)}
    assert "on one batch" in outcomes["overfit"].message


def test_main__a_model_that_does_not_learn_makes_the_status_1(given, tmp_path, monkeypatch, capsys):
    rates = 'overrides=["optim.encoder_lr=0","optim.decoder_lr=0"]'
    monkeypatch.setattr("sys.argv", ["depth-anything", *given, rates, "overfit.steps=5"])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("failed"))
    assert "overfit" in line and "learning rates" in line
    written = json.loads((tmp_path / "doctor" / "doctor.json").read_text())
    assert [entry["status"] for entry in written if entry["check"] == "overfit"] == ["failed"]


def test_main__a_label_that_stops_the_loader_is_a_failed_check_and_no_older_record_stays(given, tmp_path, monkeypatch):
    out = tmp_path / "doctor"
    out.mkdir()
    (out / "doctor.json").write_text("of another day")

    def broken(*_):
        raise UserError("sample 7 says unit=px")

    monkeypatch.setattr("depth_anything_train.doctor.command.check_speed", broken)
    monkeypatch.setattr("sys.argv", ["depth-anything", *given])
    with pytest.raises(SystemExit):
        main()
    written = json.loads((out / "doctor.json").read_text())
    assert written[-1] == {"check": "loader", "status": "failed", "message": "sample 7 says unit=px"}


def test_main__the_record_of_checks_that_stopped_says_so(given, tmp_path, monkeypatch):
    monkeypatch.setattr("depth_anything_train.doctor.command.check_labels", lambda *_: 1 / 0)
    monkeypatch.setattr("sys.argv", ["depth-anything", *given])
    with pytest.raises(ZeroDivisionError):
        main()
    written = json.loads((tmp_path / "doctor" / "doctor.json").read_text())
    assert written[-1]["status"] == "failed" and "it stopped: division by zero" in written[-1]["message"]
    assert [entry["check"] for entry in written[:-1]] == ["device", "attention", "disk"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, in tracing
def test_examine__a_compiler_that_fails_is_a_failed_check(given, tmp_path):
    def broken(*_):
        raise OSError("no C++ compiler")

    torch.compiler.set_stance("default", force_backend=broken)
    try:
        outcome = [*examine(compose("doctor", [*given, 'overrides=["compile=true"]']), tmp_path)][-1]
    finally:
        torch.compiler.reset()
        torch.compiler.set_stance("default")
    assert (outcome.check, outcome.status) == ("compile", "failed")
    assert "no C++ compiler" in outcome.message and "compile=false" in outcome.message


IMAGE = np.zeros((40, 60, 3), np.uint8)
RAMP = np.linspace(0.1, 2, 40 * 60, dtype=np.float32).reshape(40, 60)


@pytest.mark.parametrize(
    "disparity, valid, doubt",
    [
        (RAMP, np.ones((40, 60), bool), None),
        (np.ones_like(RAMP), np.ones((40, 60), bool), "constant"),
        (RAMP, RAMP < 0.15, "only"),
        (10 ** (4 * RAMP), np.ones((40, 60), bool), "range ratio"),
        (RAMP * 0, np.ones((40, 60), bool), "nothing but sky"),
        (RAMP, np.zeros((40, 60), bool), "nothing valid"),
    ],
)
def test_judge__names_what_is_odd(disparity, valid, doubt):
    doubts = judge("set", "key", "m", IMAGE, disparity, valid).doubts
    assert any(found.startswith(doubt) for found in doubts) if doubt else not doubts


class Overflows(torch.nn.Module):
    """Fine in float32 and bfloat16; in float16 the product is above 65504."""

    def __init__(self):
        super().__init__()
        self.product = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.constant_(self.product.weight, 1e4)

    def forward(self, image):
        return self.product(image)


def test_precision__says_where_float16_overflows():
    outcome = check_precision(Overflows(), torch.linspace(1, 10, 24).reshape(2, 1, 3, 4))
    assert outcome.status == "warning" and "fp16 overflows" in outcome.message


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "losses, advice",
    [
        ([NAN] * 3, "look at the labels"),
        ([INFINITY, 1.0, 0.1], "look at the labels"),
        ([1.0, 0.4, NAN, NAN], "1 at first and nan in step 3; lower the learning rates"),
        ([1.0, INFINITY, 0.1], "inf in step 2; lower the learning rates"),
    ],
)
def test_overfit__a_loss_that_is_not_a_number_fails(losses, advice):
    learning = Learning(share=0.5)
    learning.losses = losses
    outcome = check_overfit(learning)
    assert outcome.status == "failed" and advice in outcome.message


def test_learn__needs_a_step_whose_time_counts():
    with pytest.raises(UserError, match="overfit.steps of at least 3, but got 2"):
        learn(None, {}, steps=2, share=0.5, device=torch.device("cpu"), precision="32-true")
