"""MiDaS against transformers' own pipeline, on tiny models with random weights."""

import logging
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from networks import build
from PIL import Image
from scenes import encode, scene

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.test_sets import EvenlySpread
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.evaluation.models import open_model
from depth_anything_train.inference.load import load_predictor
from depth_anything_train.inference.midas import RELEASED, UNUSED, Midas
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.models import from_transformers
from depth_anything_train.models.huggingface import save_hf
from depth_anything_train.runtime import UserError

transformers = pytest.importorskip("transformers")


def beit():
    """As DPT-BEiT-L-512: a BEiT backbone with relative positions, sides kept in proportion."""
    backbone = transformers.BeitConfig(
        image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        use_relative_position_bias=True, reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DPTConfig(
        backbone_config=backbone, hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8
    )
    processor = transformers.DPTImageProcessor(
        size={"height": 64, "width": 64}, keep_aspect_ratio=True, ensure_multiple_of=32
    )
    return config, processor


def hybrid():
    """As DPT-Hybrid: convolutions in front of a ViT, always square."""
    backbone = {
        "model_type": "bit", "depths": [1, 1, 1], "hidden_sizes": [8, 8, 16], "embedding_size": 8, "num_groups": 2,
        "global_padding": "same", "layer_type": "bottleneck", "embedding_dynamic_padding": True,
        "out_features": ["stage1", "stage2", "stage3"],
    }  # fmt: skip
    config = transformers.DPTConfig(
        is_hybrid=True, backbone_config=backbone, backbone_featmap_shape=[1, 16, 4, 4], image_size=64, hidden_size=16,
        num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
    )  # fmt: skip
    return config, transformers.DPTImageProcessor(size={"height": 64, "width": 64})


@pytest.fixture(scope="module", params=[beit, hybrid], ids=["beit", "hybrid"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    config, processor = request.param()
    model = transformers.DPTForDepthEstimation(config).eval()
    with torch.no_grad():  # fresh weights hardly depend on the image, and end below zero, where the ReLU is flat
        for weight in model.parameters():
            weight.normal_(std=0.2)
        model.head.head[-2].bias.fill_(2.0)
    path = tmp_path_factory.mktemp("midas")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.mark.parametrize("shape", [(64, 64), (50, 91)])
def test_predict__gives_the_numbers_of_transformers_pipeline(folder, shape):
    photo = scene(3, *shape)[0]
    pipeline = transformers.pipeline("depth-estimation", model=str(folder), device="cpu")
    theirs = pipeline(Image.fromarray(photo))["predicted_depth"].numpy()
    ours = load_predictor(f"midas:{folder}", device="cpu").predict(photo)
    assert ours.disparity.shape == shape and ours.disparity.dtype == np.float32 and ours.disparity.std() > 0
    np.testing.assert_allclose(ours.disparity, theirs, rtol=1e-5)
    with pytest.raises(UserError, match="has no metres"):
        _ = ours.depth_m


def test_forward__of_a_batch_is_that_of_each_image(folder):
    model = Midas.from_pretrained(folder, device="cpu")
    photos = [scene(number)[0] for number in range(3)]
    for together, alone in zip(model.forward(photos), photos, strict=True):
        expected = model.predict(alone).disparity
        np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("size", [0, [64, 96], "64"])
def test_size__what_is_none_is_refused(folder, size):
    model = Midas.from_pretrained(folder, device="cpu")
    for call in (model.check_size, lambda size: model.predict(scene(1)[0], size=size)):
        with pytest.raises(UserError, match="size"):
            call(size)


def test_size__is_what_the_processor_aims_at(folder):
    model = Midas.from_pretrained(folder, device="cpu")
    photo = scene(1)[0]
    assert (model.predict(photo, size=64).disparity == model.predict(photo).disparity).all()
    if model.model.config.is_hybrid:
        with pytest.raises(UserError, match="at size=96 do not fit"):
            model.predict(photo, size=96)
        return
    larger = model.predict(photo, size=96).disparity
    assert larger.shape == photo.shape[:2] and (larger != model.predict(photo).disparity).any()


def test_predict__takes_every_form_of_photograph(folder, tmp_path):
    model = Midas.from_pretrained(folder, device="cpu")
    content = encode(scene(0)[0], "png")
    (tmp_path / "photo.png").write_bytes(content)
    assert (model.predict(content).disparity == model.predict(tmp_path / "photo.png").disparity).all()
    several = [scene(0)[0], scene(1, 50, 40)[0]]
    assert [one.disparity.shape for one in model.predict(several)] == [(42, 56), (50, 40)]
    with pytest.raises(BadSample):
        model.predict(b"no image")


def test_predict__a_strip_that_is_too_narrow_is_told_so(folder):
    model = Midas.from_pretrained(folder, device="cpu")
    strip = np.zeros((7, 300, 3), np.uint8)
    if model.model.config.is_hybrid:  # its processor stretches to a square
        assert model.predict(strip).disparity.shape == (7, 300)
        return
    with pytest.raises(BadSample, match="but 300 x 7 pixels do not fit: they are too narrow"):
        model.predict(strip)


def test_hash__names_the_weights_though_unused_ones_are_missing(folder, tmp_path, caplog):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    assert len(kept) < len(tensors)
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    safetensors.torch.save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    one, other = (Midas.from_pretrained(tmp_path, device="cpu") for _ in range(2))
    assert one.hash == other.hash
    photo = scene(1)[0]
    whole = Midas.from_pretrained(folder, device="cpu").predict(photo).disparity
    assert (one.predict(photo).disparity == whole).all()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_from_pretrained__refuses_what_is_no_complete_dpt(folder, tmp_path):
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        Midas.from_pretrained(tmp_path)
    tensors = {name: tensor for name, tensor in tensors.items() if "neck.convs.1" not in name}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="neck.convs.1"):
        Midas.from_pretrained(tmp_path)


def test_from_pretrained__a_model_of_another_type_is_called_by_it(tmp_path):
    save_hf(tmp_path, build(), size=28, card="")
    with pytest.raises(UserError, match="a model of type dpt, but .* is of type depth_anything"):
        Midas.from_pretrained(tmp_path)


def test_from_pretrained__a_mistyped_name_never_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(from_transformers, "from_hub", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path.parent)
    for typo in ("hybird", tmp_path / "nothing", f"{tmp_path.name}/nothing"):
        with pytest.raises(UserError, match="MiDaS as large, hybrid or .*which is no folder"):
            Midas.from_pretrained(typo)


def test_from_pretrained__of_a_name_the_cache_of_the_hub_will_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--Intel--dpt-hybrid-midas"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    named = Midas.from_pretrained("hybrid", device="cpu")
    assert named.hash == Midas.from_pretrained(folder, device="cpu").hash
    with pytest.raises(UserError, match=r"Expected MiDaS .* in a folder Intel/dpt-beit-large-512 .*the hub gave"):
        Midas.from_pretrained("large")


def test_load_predictor__names_of_the_released_models(monkeypatch):
    asked = []
    monkeypatch.setattr(Midas, "from_pretrained", classmethod(lambda cls, source, **_: asked.append(source)))
    for name in ("midas", "midas:hybrid", "midas:some/folder"):
        load_predictor(name)
    assert asked == ["large", "hybrid", "some/folder"]
    assert RELEASED == {"large": "Intel/dpt-beit-large-512", "hybrid": "Intel/dpt-hybrid-midas"}


def test_evaluate__judges_midas_like_any_model(folder, labelled_shards):
    scenes = EvenlySpread(ShardFolder(labelled_shards), 3)
    results = evaluate(open_model(f"midas:{folder}", []), {"scenes": scenes}, DepthProtocol(), batch_size=2)
    assert len(results.images) == 3 and np.isfinite(results.mean()["abs_rel"])
