"""Folders of the transformers library, written by that library and read here, and the other way round."""

import json

import pytest
import safetensors.torch
import torch
from networks import build, equal

from depth_anything_train.models import huggingface
from depth_anything_train.models.huggingface import config_from_hf, config_to_hf, load_hf, processor_of, save_hf
from depth_anything_train.runtime import UserError

transformers = pytest.importorskip("transformers")


def theirs(kind="relative", max_depth=1, taps=(0, 1, 2, 3), swiglu=False, dim=48, depth=4, heads=4):
    """A model of transformers with random weights."""
    backbone = transformers.Dinov2Config(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, image_size=70, patch_size=14,
        out_indices=[tap + 1 for tap in taps], apply_layernorm=True, reshape_hidden_states=False,
        use_swiglu_ffn=swiglu,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=dim, neck_hidden_sizes=[8, 12, 16, 20],
        fusion_hidden_size=16, depth_estimation_type=kind, max_depth=max_depth,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1.6 / dim**0.5)
    model.head.conv3.weight.data.mul_(3e-3)  # outputs of about 1
    torch.nn.init.constant_(model.head.conv3.bias, 1.0 if kind == "relative" else 0.0)
    return model


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def close(ours, reference, size):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = reference(image).predicted_depth, ours(image)[:, 0]
    return expected.std() > 0 and (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(70, 70), (42, 98)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"taps": (0, 2, 3, 5), "depth": 6},
        {"kind": "metric", "max_depth": 80},
        {"swiglu": True},
    ],
    ids=["v1", "v2", "metric", "giant"],
)
def test_load__gives_the_numbers_of_transformers(tmp_path, settings, size):
    reference = theirs(**settings)
    reference.save_pretrained(tmp_path)
    model, shorter_side = load_hf(tmp_path)
    assert close(model, reference, size)
    assert shorter_side == 518
    assert model.config.kind == settings.get("kind", "relative")
    assert model.config.max_depth_m == settings.get("max_depth")


@pytest.mark.parametrize("swiglu", [False, True])
def test_round_trip__from_transformers_gives_equal_bits_and_an_equal_model(tmp_path, swiglu):
    reference = theirs(swiglu=swiglu, kind="metric", max_depth=20)
    reference.save_pretrained(tmp_path / "theirs")
    model, size = load_hf(tmp_path / "theirs")
    save_hf(tmp_path / "ours", model, size=size, card="")
    a, b = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    loaded = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "ours").eval()
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), reference.parameters(), strict=True))
    assert loaded.config.max_depth == 20 and loaded.config.depth_estimation_type == "metric"


@pytest.mark.parametrize("changes", [{}, {"taps": "spread", "depth": 8}, {"kind": "metric", "max_depth_m": 80.0}])
def test_round_trip__from_ours_keeps_weights_and_configuration(tmp_path, changes):
    model = build(position="transformers", **changes)
    loaded, size = load_hf(save_hf(tmp_path, model, size=112, card="# card\n"))
    assert equal(model, loaded) and size == 112
    assert loaded.config.kind == model.config.kind and loaded.config.max_depth_m == model.config.max_depth_m
    assert loaded.config.encoder.taps == model.config.encoder.taps
    assert (tmp_path / "README.md").read_text() == "# card\n"


def test_save__a_depth_that_transformers_cannot_state_is_refused(tmp_path):
    with pytest.raises(UserError, match="whole metres"):
        save_hf(tmp_path, build(kind="metric", max_depth_m=2.5), size=56, card="")
    assert not list(tmp_path.iterdir())


def test_save__transformers_loads_model_processor_and_pipeline(tmp_path):
    from PIL import Image

    model = build(position="transformers", image_size=56).eval()
    save_hf(tmp_path, model, size=56, card="")
    reference = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path).eval()
    assert close(model, reference, (42, 70))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    photo = Image.new("RGB", (90, 60), (200, 30, 90))
    assert processor(photo, return_tensors="pt")["pixel_values"].shape == (1, 3, 56, 84)
    pipe = transformers.pipeline("depth-estimation", model=str(tmp_path), device="cpu")
    assert pipe(photo)["predicted_depth"].shape == (60, 90)


def test_save__over_another_model_that_is_broken_off_leaves_no_mixture(tmp_path, monkeypatch):
    save_hf(tmp_path, build(taps=(0, 1, 2, 3)), size=28, card="")
    monkeypatch.setattr(huggingface, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_hf(tmp_path, build(seed=1), size=28, card="")
    with pytest.raises(UserError, match="config.json, which does not exist"):
        load_hf(tmp_path)


def test_load__half_precision_weights_become_float32(tmp_path):
    reference = theirs().half()
    reference.save_pretrained(tmp_path)
    model, _ = load_hf(tmp_path)
    assert all(p.dtype == torch.float32 for p in model.parameters())


RELEASED_SMALL = {  # what the config.json of a released V1 model states; the rest is left to the defaults
    "architectures": ["DepthAnythingForDepthEstimation"],
    "model_type": "depth_anything",
    "backbone_config": {
        "model_type": "dinov2", "hidden_size": 384, "image_size": 518, "num_attention_heads": 6,
        "out_features": ["stage9", "stage10", "stage11", "stage12"], "out_indices": [9, 10, 11, 12],
        "patch_size": 14, "reshape_hidden_states": False,
    },
    "fusion_hidden_size": 64, "head_hidden_size": 32, "head_in_index": -1,
    "neck_hidden_sizes": [48, 96, 192, 384], "reassemble_factors": [4, 2, 1, 0.5], "reassemble_hidden_size": 384,
}  # fmt: skip


def test_config__of_the_released_small_model_is_ours():
    config = config_from_hf(RELEASED_SMALL, source="config.json")
    assert config.encoder.name == "vits" and config.encoder.taps == (8, 9, 10, 11) and config.encoder.depth == 12
    assert config.kind == "relative" and config.features == 64
    assert config_from_hf(config_to_hf(config), source="x") == config


def test_config__negative_indices_count_from_the_last_block_as_in_transformers():
    backbone = transformers.Dinov2Config(num_hidden_layers=12, out_indices=[-10, -7, -4, -1])
    assert backbone.stage_names[-10] == "stage3"
    content = {**RELEASED_SMALL["backbone_config"], "out_indices": [-10, -7, -4, -1]}
    config = config_from_hf({**RELEASED_SMALL, "backbone_config": content}, source="config.json")
    assert config.encoder.taps == (2, 5, 8, 11)


def test_config__defaults_are_those_of_transformers():
    config = config_from_hf(
        {"model_type": "depth_anything", "backbone_config": {"model_type": "dinov2", "out_indices": [3, 6, 9, 12]}},
        source="x",
    )
    backbone, top = transformers.Dinov2Config(), transformers.DepthAnythingConfig()
    assert config.encoder.embed_dim == backbone.hidden_size and config.encoder.depth == backbone.num_hidden_layers
    assert config.encoder.num_heads == backbone.num_attention_heads and config.encoder.image_size == backbone.image_size
    assert config.encoder.patch_size == backbone.patch_size
    assert config.features == top.fusion_hidden_size and list(config.out_channels) == list(top.neck_hidden_sizes)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "dpt"}, "type depth_anything"),
        ({"backbone_config": {"model_type": "swin"}}, "type dinov2"),
        ({"head_hidden_size": 64}, "head_hidden_size=32"),
        ({"max_depth": 20}, "for a relative model"),
        ({"max_depth": 20, "depth_estimation_type": "relative"}, "for a relative model"),
        ({"depth_estimation_type": "absolute"}, "relative, metric"),
        ({"neck_hidden_sizes": 7}, "numbers"),
        ({"backbone_config": {**RELEASED_SMALL["backbone_config"], "out_indices": ["x"]}}, "cannot be used"),
        ({"backbone_config": {"model_type": "dinov2"}}, "Expected out_indices"),
        ({"backbone_config": {**RELEASED_SMALL["backbone_config"], "out_indices": [0, 1, 2, 3]}}, "out of 1 to 12 in"),
    ],
)
def test_config__of_another_model_is_one_sentence(change, message):
    with pytest.raises(UserError, match=message):
        config_from_hf({**RELEASED_SMALL, **change}, source="config.json")


def test_load__weights_of_another_size_name_the_likely_cause(tmp_path):
    theirs().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["backbone_config"]["hidden_size"] = 96
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="48 channels and 4 blocks instead of 96 and 4"):
        load_hf(tmp_path)


def test_load__weights_that_do_not_fit_have_the_names_of_the_file(tmp_path):
    theirs().save_pretrained(tmp_path)
    weights = tensors_of(tmp_path)
    query = "backbone.encoder.layer.0.attention.attention.query.weight"
    weights[query.replace("query", "other")] = weights.pop(query)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    message = rf"1 missing \(first {query}\), 1 unexpected \(first .*attention.other.weight\): .* built otherwise"
    with pytest.raises(UserError, match=message):
        load_hf(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "Expected image_mean="),
        ({"image_std": None}, "Expected image_std="),
        ({"do_normalize": False}, "Expected do_normalize=True"),
        ({"do_resize": False}, "Expected do_resize=True"),
        ({"rescale_factor": 1}, "Expected rescale_factor="),
        ({"resample": "bicubic"}, "Expected resample=3"),
        ({"ensure_multiple_of": 32}, "Expected ensure_multiple_of=14"),
        ({"ensure_multiple_of": None}, "Expected ensure_multiple_of=14"),
        ({"size": {"height": 28, "width": 56}}, "equal height and width"),
        ({"size": "518"}, "a size with height and width"),
    ],
)
def test_processor__that_prepares_in_another_way_is_refused(tmp_path, change, message):
    save_hf(tmp_path, build(), size=28, card="")
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message):
        load_hf(tmp_path)
    path.write_text("[]")
    with pytest.raises(UserError, match="is damaged.*; download or save the folder again"):
        load_hf(tmp_path)


def test_processor__without_a_word_on_the_aspect_stretches_as_transformers_does(tmp_path):
    save_hf(tmp_path, build(), size=28, card="")
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    del content["keep_aspect_ratio"]
    path.write_text(json.dumps(content))
    assert load_hf(tmp_path)[1] == [28, 28]


def test_processor__prepares_as_the_original():
    written = processor_of(build().config, 518)
    assert written["resample"] == 3 and written["keep_aspect_ratio"] and written["ensure_multiple_of"] == 14
    assert written["image_mean"] == [0.485, 0.456, 0.406] and written["image_std"] == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("size, count", [("vits", 239), ("vitb", 239), ("vitl", 407), ("vitg", 631)])
def test_released_sizes__have_the_released_names_in_both_layouts(size, count):
    from depth_anything_train.building import build as build_node
    from depth_anything_train.composition import compose
    from depth_anything_train.models.hf_names import from_hf_names, to_hf_names

    with torch.device("meta"):
        model = build_node(compose("train", ["experiment=tiny_teacher", f"model={size}", "out=x"]).model)
        ours = model.state_dict()
        assert len(ours) == count
        translated = to_hf_names(ours, model.config)
        back = from_hf_names(translated, model.config)
    assert {name: t.shape for name, t in back.items()} == {name: t.shape for name, t in ours.items()}
    config = transformers.DepthAnythingConfig(
        **{k: v for k, v in config_to_hf(model.config).items() if k != "torch_dtype"}
    )
    with torch.device("meta"):
        reference = transformers.DepthAnythingForDepthEstimation(config).state_dict()
    assert sum(t.numel() for t in reference.values()) == sum(t.numel() for t in ours.values())
    if size != "vitg":  # there, version 5 holds the two halves of the gate apart in memory, not on disk
        assert len(translated) == len(reference)


def test_folder__a_model_that_stretches_says_so(tmp_path):
    model = build(kind="metric", max_depth_m=20.0)
    save_hf(tmp_path, model, size=[28, 56], card="")
    assert load_hf(tmp_path)[1] == [28, 56]
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 28, "width": 56} and not processor["keep_aspect_ratio"]


def test_folder__bins_are_refused_with_the_reason(tmp_path):
    model = build(kind="metric", bins={"domains": [["nyu", 0.001, 10.0]]})
    with pytest.raises(UserError, match="only in ZoeDepth"):
        save_hf(tmp_path / "m", model, size=56, card="")
    assert not (tmp_path / "m").exists()
