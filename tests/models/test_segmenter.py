import json

import numpy as np
import pytest
import torch
from torch import nn

from depth_anything_train.models.encoder import EncoderConfig
from depth_anything_train.models.loading import load_depth_model
from depth_anything_train.models.segmenter import Pyramid, Segmenter, SegmenterConfig, load_segmenter, save_segmenter
from depth_anything_train.optim.param_groups import prefix_groups
from depth_anything_train.runtime import UserError

ENCODER = EncoderConfig("test", embed_dim=32, depth=4, num_heads=2, ffn="mlp", taps=(0, 1, 2, 3), image_size=28)
SMALL = dict(num_classes=5, queries=8, width=32, heads=2, feedforward=32, pixel_layers=1, query_layers=2)


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return Segmenter(SegmenterConfig(ENCODER, **{**SMALL, **changes}))


def slow_transposed(x, layer):
    """Every pixel of the input paints its own 2 x 2 block."""
    batch, channels, height, width = x.shape
    out = torch.empty(batch, layer.out_channels, 2 * height, 2 * width)
    for row in range(height):
        for column in range(width):
            block = torch.einsum("bc,cdij->bdij", x[:, :, row, column], layer.weight)
            out[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = block + layer.bias[:, None, None]
    return out


@torch.no_grad()
def test_pyramid__equals_a_slow_one():
    torch.manual_seed(0)
    pyramid = Pyramid(6)
    maps = [torch.randn(2, 6, 4, 6) for _ in range(4)]
    found = pyramid(maps)
    assert [tuple(x.shape[-2:]) for x in found] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    first, norm, _, second = pyramid.finest
    x = slow_transposed(maps[0], first)
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(found[0], slow_transposed(x, second), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], slow_transposed(maps[1], pyramid.fine), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], maps[2])
    blocks = maps[3].unflatten(2, (2, 2)).unflatten(4, (3, 2))
    assert torch.equal(found[3], blocks.amax((3, 5)))


def test_segmenter__reads_four_blocks_from_early_to_late():
    model = build().eval()
    image = torch.randn(1, 3, 56, 84)
    seen = []
    model.pyramid.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    with torch.no_grad():
        queries = model(image)
        maps, _ = model.pretrained.forward_taps(image)
    assert all(torch.equal(a, b) for a, b in zip(seen[0][0], maps, strict=True)) and maps[0].shape[-2:] == (4, 6)
    assert len(queries.classes) == len(queries.masks) == 3, "before any layer, and behind each of two"
    assert queries.classes[-1].shape == (1, 8, 6) and queries.masks[-1].shape == (1, 8, 16, 24)


def test_segmenter__decodes_as_transformers_with_a_backbone_of_the_same_maps():
    """The whole of `Mask2FormerForUniversalSegmentation`, whose backbone hands over our four maps."""
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.modeling_outputs import BackboneOutput

    model = build().eval()
    config = model.decoder.config
    config.backbone_config = type(config.backbone_config)(
        depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], embed_dim=8, out_features=["stage1", "stage2", "stage3", "stage4"]
    )

    class Maps(nn.Module):
        def forward(self, image):
            return BackboneOutput(feature_maps=tuple(model.pyramid(model.pretrained.forward_taps(image)[0])))

    whole = Mask2FormerForUniversalSegmentation(config).eval()
    whole.model.pixel_level_module.encoder = Maps()
    whole.model.pixel_level_module.decoder = model.decoder.pixel_decoder
    whole.model.transformer_module = model.decoder.transformer_module
    whole.class_predictor = model.decoder.class_predictor
    image = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        theirs, ours = whole(image), model(image)
    assert torch.equal(theirs.class_queries_logits, ours.classes[-1])
    assert torch.equal(theirs.masks_queries_logits, ours.masks[-1])


def test_scores__are_sums_over_queries_of_class_times_mask():
    model = build().eval()
    image = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        queries, scores = model(image), model.scores(image)
    classes = queries.classes[-1][0].double().exp()
    classes = (classes / classes.sum(-1, keepdim=True))[:, :5]
    masks = nn.functional.interpolate(queries.masks[-1], (56, 56), mode="bilinear", align_corners=False)[0].double()
    expected = sum(
        classes[q][:, None, None] / (1 + (-masks[q]).exp()) for q in range(8)
    )  # (5, 56, 56): a query at a time
    torch.testing.assert_close(scores[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_every_weight__learns():
    model = build()
    queries = model(torch.randn(2, 3, 56, 56))
    sum(x.square().mean() for x in (*queries.classes, *queries.masks)).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == [], "processes would wait for their gradients"


def test_groups__norms_and_embeddings_do_not_decay_and_the_encoder_learns_slowly():
    model = build()
    rates = {"pretrained.": ("encoder", 3e-6), "": ("decoder", 3e-5)}
    groups = prefix_groups(model, rates, weight_decay=0.05, decay_norms_and_biases=False, decay_embeddings=False)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert found == {
        "encoder": (3e-6, 0.05),
        "encoder_no_decay": (3e-6, 0.0),
        "decoder": (3e-5, 0.05),
        "decoder_no_decay": (3e-5, 0.0),
    }
    still = {name for group in groups if not group["weight_decay"] for name, _ in group["params"]}
    for name in (
        "pretrained.pos_embed",
        "pretrained.norm.weight",
        "pretrained.blocks.0.norm1.weight",
        "pyramid.finest.1.weight",
        "decoder.transformer_module.queries_embedder.weight",
        "decoder.transformer_module.queries_features.weight",
        "decoder.transformer_module.level_embed.weight",
        "decoder.pixel_decoder.level_embed",
    ):
        assert name in still, name
    for name in ("pretrained.patch_embed.proj.weight", "pretrained.cls_token", "decoder.class_predictor.weight"):
        assert name not in still, name
    assert "pretrained.pos_embed" in {
        name
        for group in prefix_groups(model, rates, weight_decay=1, decay_norms_and_biases=False)
        if group["weight_decay"]
        for name, _ in group["params"]
    }, "unless it is asked for"


def test_files__come_back_and_damage_is_said(tmp_path):
    model = build(1)
    save_segmenter(tmp_path / "run" / "model", model, {"experiment": "e"})
    again, about = load_segmenter(tmp_path / "run")
    assert again.config == model.config and about["experiment"] == "e" and not again.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    description = tmp_path / "run" / "model" / "segmenter.json"
    content = json.loads(description.read_text())
    for change, message in (
        ({"sha256": "0" * 64}, "another hash"),
        ({"config": {**content["config"], "width": 64}}, "another shape"),
        ({"config": {"encoder": {}}}, "missing or unknown"),
    ):
        description.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=message):
            load_segmenter(tmp_path / "run")
    with pytest.raises(UserError, match="Expected a segmenter"):
        load_segmenter(tmp_path)


@pytest.mark.parametrize("folder", ["run", "run/best"])
def test_files__are_not_taken_for_a_run_that_has_not_finished(folder, tmp_path):
    """`evaluate`, `predict`, `export`, `app`, `label` and `init=` all ask for a depth model here."""
    for part in ("model", "best"):
        save_segmenter(tmp_path / "run" / part, build(), {})
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds a segmenter"):
        load_depth_model(tmp_path / folder)


@pytest.mark.parametrize(
    "change", [{"width": 48}, {"width": 32, "heads": 5}, {"num_classes": 256}, {"queries": 0}, {"pixel_layers": "x"}]
)
def test_config__numbers_that_cannot_be_are_refused(change):
    with pytest.raises(UserError, match="Expected"):
        SegmenterConfig(ENCODER, **{**SMALL, **change})


def test_scores__do_not_change_with_the_other_images_of_a_batch():
    model = build().eval()
    image = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        together, alone = model.scores(image), model.scores(image[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)
