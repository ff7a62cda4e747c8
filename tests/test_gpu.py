"""The chain on a GPU agrees with the chain on the CPU; `make test-gpu`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import scene, write_shards

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.labelling.teacher import ModelTeacher
from depth_anything_train.composition import compose
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.run_folder import FINISHED, read_metrics
from depth_anything_train.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),  # which would make float32 less exact
]

GPU = ["trainer=default", "trainer.devices=1"]
STEPS = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "labelled", "labelled")
    write_shards(folder / "images", "images", first=100)
    return folder


@pytest.fixture(scope="module")
def teacher(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    keys = ["experiment=tiny_teacher", f"out={out}", f"labelled=[{shards / 'labelled'}]", f"steps={STEPS}"]
    return train(compose("train", keys))


@pytest.fixture(scope="module")
def labels(shards, teacher):
    """Folders of labels made on the CPU and on the GPU."""
    folders = {}
    for device in ("cpu", "cuda"):
        folders[device] = shards / f"labels-{device}"
        labeller = ShardLabeller(ModelTeacher(teacher, device=device), LabelSettings(size=28, batch_size=4))
        label(labeller, shards / "images", folders[device], engine=LocalEngine())
    return folders


def losses(run):
    return [row["train/loss"] for row in read_metrics(Path(run) / "metrics.jsonl")]


def student(shards, labels, out, *more):
    data = [f"labelled=[{shards / 'labelled'}]", f"unlabelled=[{labels['cpu']}]"]
    keys = ["experiment=tiny_student", f"out={out}", f"steps={STEPS}", "optim.encoder_lr=1e-5", "optim.decoder_lr=1e-5"]
    torch.use_deterministic_algorithms(False)  # as a training on the CPU leaves it
    return losses(train(compose("train", [*keys, *data, *more])))


def test_labels__are_those_of_the_cpu(labels):
    cpu, cuda = (PseudoLabelSource([labels[device]]) for device in ("cpu", "cuda"))
    assert len(cpu) == len(cuda) > 0
    for number in range(len(cpu)):
        ours, theirs = cuda.load(number), cpu.load(number)
        assert ours["key"] == theirs["key"]
        assert np.abs(ours["disparity"] - theirs["disparity"]).mean() < 5e-3  # convolutions round to TF32


def test_student__has_the_losses_of_the_cpu(shards, labels, tmp_path):
    cpu = student(shards, labels, tmp_path / "cpu")
    assert len(cpu) == STEPS
    assert student(shards, labels, tmp_path / "cuda", *GPU) == pytest.approx(cpu, rel=2e-2)
    mixed = student(shards, labels, tmp_path / "mixed", *GPU, "precision=bf16-mixed")
    assert mixed == pytest.approx(cpu, rel=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, in tracing
def test_student__compiled_has_the_losses_of_one_that_is_not(shards, labels, tmp_path):
    plain = student(shards, labels, tmp_path / "plain", *GPU)
    assert student(shards, labels, tmp_path / "compiled", *GPU, "compile=true") == pytest.approx(plain, rel=2e-2)


def test_student__deterministic_has_the_same_bits_again(shards, labels, tmp_path):
    settings = [*GPU, "trainer.deterministic=true", "precision=bf16-mixed"]
    first, second = (student(shards, labels, tmp_path / name, *settings) for name in ("first", "second"))
    assert first == second
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


def test_student__takes_its_batch_in_parts(shards, labels, tmp_path):
    whole = student(shards, labels, tmp_path / "whole", *GPU)
    parts = student(shards, labels, tmp_path / "parts", *GPU, "max_per_device=3")
    assert parts == pytest.approx(whole, rel=2e-2)


def test_student__all_that_recipes_turn_on_agrees_with_the_cpu_also_behind_a_restart(shards, labels, tmp_path):
    """Recomputed activations, positions of another size, loader processes, previews, validation."""
    write_shards(tmp_path / "held-out", "labelled", first=50)
    settings = ["size=42", "model.activation_checkpointing=selective", "workers=1", "checkpoint.every_n_steps=3"]
    settings += ["preview.every_n_steps=2", f"validation=[{tmp_path / 'held-out'}]", "validate.every_n_steps=2"]
    cpu = student(shards, labels, tmp_path / "cpu", *settings)
    run = tmp_path / "cuda"
    assert student(shards, labels, run, *GPU, *settings) == pytest.approx(cpu, rel=2e-2)
    assert len(list((run / "previews").iterdir())) == len(list((tmp_path / "cpu" / "previews").iterdir())) > 0
    (run / FINISHED).unlink()
    (run / "checkpoints" / f"step-{STEPS:08d}.ckpt").unlink()
    assert student(shards, labels, run, *GPU, *settings) == pytest.approx(cpu, rel=2e-2)


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"precision": "bf16"}], ids=["plain", "compile", "bf16"])
def test_prediction__is_that_of_the_cpu(teacher, options):
    photo, _ = scene(7)
    expected = DepthAnything.from_pretrained(teacher, device="cpu").predict(photo).disparity
    found = DepthAnything.from_pretrained(teacher, device="cuda", **options).predict(photo).disparity
    spread = expected.max() - expected.min()
    assert np.abs(found - expected).mean() < (0.05 if options.get("precision") else 0.01) * spread
