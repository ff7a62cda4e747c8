"""Compiling where training does it, by backends of torch that are quick: what they run is what inductor is given."""

import copy

import pytest
import torch
from networks import build
from scenes import write_shards
from torch._dynamo.utils import counters

from depth_anything_train.composition import compose
from depth_anything_train.models.compilation import compile_parts
from depth_anything_train.runtime import UserError
from depth_anything_train.train import train

# Torch itself hides it while it compiles, which does not help where warnings are errors.
pytestmark = pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def backend():
    """Have what is compiled go to this backend of torch's."""
    stances = []

    def choose(name):
        torch._dynamo.reset()
        counters.clear()
        stances.append(torch.compiler.set_stance("default", force_backend=name))
        stances[-1].__enter__()

    yield choose
    for stance in stances:
        stance.__exit__(None, None, None)


def gradients(encoder, image):
    encoder(image).square().mean().backward()
    return {name: x.grad for name, x in encoder.named_parameters() if x.grad is not None}


def test_compile_parts__has_the_gradients_and_the_names_of_what_was_not_compiled(backend):
    plain = build(activation_checkpointing="selective").pretrained.train()
    compiled = copy.deepcopy(plain)
    compile_parts(compiled)
    backend("aot_eager")
    image = torch.randn(2, 3, 28, 28)
    expected, found = gradients(plain, image), gradients(compiled, image)
    assert counters["stats"]["unique_graphs"] == 1  # for all blocks
    assert [*compiled.state_dict()] == [*plain.state_dict()]
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture
def student(tmp_path):
    from test_report import write_pseudo_labels

    labelled = write_shards(tmp_path / "labelled", "labelled")
    labels = write_pseudo_labels(tmp_path / "labels", write_shards(tmp_path / "images", "images", first=100))
    held_out = write_shards(tmp_path / "held_out", "labelled", counts=(2,), first=50)
    data = [f"labelled=[{labelled}]", f"unlabelled=[{labels}]", f"validation=[{held_out}]", "validate.every_n_steps=2"]
    more = ["steps=4", "preview.every_n_steps=2", "model.activation_checkpointing=selective"]
    return lambda *keys: compose("train", ["experiment=tiny_student", *data, *more, *keys])


def test_train__compiles_once_and_changes_nothing_else(student, tmp_path, backend):
    plain = train(student(f"out={tmp_path / 'plain'}"))
    backend("eager")
    compiled = train(student(f"out={tmp_path / 'compiled'}", "compile=true"))
    assert counters["stats"]["unique_graphs"] == 3  # the student's blocks and decoder, the frozen encoder's blocks
    assert not counters["graph_break"]
    for name in ("model/model.safetensors", "metrics.jsonl", "validation/metrics.jsonl", "best/model.safetensors"):
        assert (compiled / name).read_bytes() == (plain / name).read_bytes()


def test_train__a_compiler_that_fails_is_named(student, tmp_path, backend):
    def broken(*_):
        raise OSError("no C++ compiler")

    backend(broken)
    with pytest.raises(UserError, match=r"torch.compile failed .*no C\+\+ compiler.*compile=false"):
        train(student(f"out={tmp_path / 'run'}", "compile=true"))
