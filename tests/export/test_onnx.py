"""ONNX graphs against PyTorch, with onnxruntime."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import build
from scenes import encode, scene

from depth_anything_train.export import onnx as module
from depth_anything_train.export.onnx import check_onnx, export_onnx
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.runtime import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def lively(seed=0, **changes):
    """A tiny model whose output depends on the image and on its position embedding."""
    network = build(seed, embed_dim=16, features=4, out_channels=[4] * 4, **changes)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
        network.depth_head.scratch.output_conv2[2].bias.fill_(3.0)
    return DepthAnything(network, size=56, device="cpu")


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """A model, its file with open batch and size, and the difference that the check found."""
    model, path = lively(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    return model, path, export_onnx(model, path)


def run(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["disparity"], {"image": image.numpy()})[0]


@pytest.mark.parametrize(
    "shape", [(1, 56, 56), (3, 56, 56), (1, 56, 70), (2, 70, 56), (2, 28, 98), (1, 14, 14), (5, 42, 28), (1, 154, 126)]
)
def test_graph__gives_pytorchs_numbers_at_any_batch_and_size(dynamic, shape):
    model, path, _ = dynamic
    image = torch.randn(shape[0], 3, *shape[1:])
    expected = model.infer(image).numpy()
    found = run(path, image)
    assert found.shape == expected.shape and expected.std() > 0.01
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_graph__names_and_metadata_are_stable(dynamic):
    model, path, difference = dynamic
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["image"]
    assert session.get_inputs()[0].shape == ["batch", 3, "14*rows", "14*columns"]
    assert [node.name for node in session.get_outputs()] == ["disparity"]
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["kind"] == "relative" and facts["sha256"] == model.hash and facts["position"] == "dinov2"
    assert {name: json.loads(facts[name]) for name in ("size", "patch_size", "taps", "mean", "max_depth_m")} == {
        "size": 56,
        "patch_size": 14,
        "taps": [0, 1, 2, 3],
        "mean": [0.485, 0.456, 0.406],
        "max_depth_m": None,
    }
    assert onnx.load(path).opset_import[0].version >= 17
    assert difference == check_onnx(path, model) < 1e-4


def test_graph__holds_no_path_of_this_machine(dynamic):
    assert str(Path(module.__file__).parents[2]).encode() not in dynamic[1].read_bytes()


@pytest.mark.parametrize("batch_size", [0, -1, 1.5])
def test_export_onnx__a_number_of_images_that_is_none_is_refused(batch_size, tmp_path):
    with pytest.raises(UserError, match="Expected batch_size to be a whole number of at least 1"):
        export_onnx(lively(), tmp_path / "model.onnx", batch_size=batch_size)


def test_graph__of_fixed_size_of_a_metric_model(tmp_path):
    model = lively(kind="metric", max_depth_m=20.0, position="timm")
    export_onnx(model, tmp_path / "model.onnx", size=[28, 70], batch_size=2)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 28, 70]
    assert (session.get_outputs()[0].name, session.get_outputs()[0].shape) == ("depth_m", [2, 1, 28, 70])
    facts = session.get_modelmeta().custom_metadata_map
    assert (json.loads(facts["max_depth_m"]), json.loads(facts["size"])) == (20.0, [28, 70])


def test_exportable__two_domains_of_bins_take_any_number_of_images():
    domains = [["near", 0.001, 10.0], ["far", 0.001, 80.0]]
    bins = {"domains": domains, "count": 8, "attractors": [2, 2, 2, 2], "embedding": 8, "hidden": 8, "seed_hidden": 8}
    network = module._exportable(lively(kind="metric", max_depth_m=80.0, bins=bins).model)
    free = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.zeros(2, 3, 28, 42),), dynamic_shapes=free)  # raises if it is fixed
    assert program.module()(torch.zeros(3, 3, 28, 42)).shape == (3, 1, 28, 42)


@pytest.mark.parametrize("position", ["dinov2", "timm", "transformers"])
def test_encoder__resamples_positions_as_its_config_says(position):
    model = lively(position=position).model
    copy = module._exportable(model)
    for sides in ((56, 56), (56, 70), (28, 98), (112, 42)):
        image = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, actual = model(image), copy(image)
        assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_documentation__says_what_to_feed_and_how_to_read_it(dynamic, tmp_path, monkeypatch):
    model, path, _ = dynamic
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    (example,) = [block for block in page.split("```") if block.startswith("python") and "onnxruntime" in block]
    photo = encode(scene(3, 100, 150)[0], "png")
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "model.onnx").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    result = {}
    exec(example.removeprefix("python"), result)
    expected = model.predict(photo).disparity
    assert np.abs(result["disparity"] - expected).max() <= 1e-3 * np.abs(expected).max()


def test_check__finds_other_weights_other_numbers_and_other_files(dynamic, tmp_path):
    model, path, _ = dynamic
    with pytest.raises(UserError, match="other weights"):
        check_onnx(path, lively(seed=1))
    proto = onnx.load(path)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("output_conv2.0.bias"))
    changed = onnx.numpy_helper.to_array(bias) + 0.1
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    with pytest.raises(UserError, match="differs from PyTorch by"):
        check_onnx(proto.SerializeToString(), model)
    proto.graph.output[0].name = "depth"
    proto.graph.node[-1].output[0] = "depth"
    with pytest.raises(UserError, match="to disparity"):
        check_onnx(proto.SerializeToString(), model)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    for file in (tmp_path / "model.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(UserError, match="Expected an ONNX file"):
            check_onnx(file, model)


def test_export__leaves_no_file_of_a_graph_with_other_numbers(dynamic, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "build_graph", lambda *_, **__: dynamic[1].read_bytes())
    with pytest.raises(UserError, match="other weights"):
        export_onnx(lively(seed=1), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [30, [28, 30], [28], [28, 28, 28], 0])
def test_export__refuses_a_size_that_is_no_multiple_of_the_patch(size, tmp_path):
    with pytest.raises(UserError, match="multiple of the patch size 14"):
        export_onnx(lively(), tmp_path / "model.onnx", size=size)
