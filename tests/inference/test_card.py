import pytest
from huggingface_hub import ModelCard

from depth_anything_train.inference.card import model_card
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.encoder import EncoderConfig


def config(position="dinov2", **head):
    encoder = EncoderConfig("vits", 384, 12, 6, "mlp", (8, 9, 10, 11), position=position)
    return DepthModelConfig(encoder, 64, (48, 96, 192, 384), **head)


LABELLED = {"source": "hrwsi", "kind": "labelled", "images": 20378, "licences": {"CC BY-NC 4.0": 20378}}
PSEUDO = {
    "source": "sa1b",
    "kind": "pseudo_labels",
    "images": 11_000_000,
    "licences": {"unknown": 11_000_000},
    "teacher": {"hash": "0123456789abcdef" * 4, "experiment": "v1_teacher_vitl", "data": [LABELLED]},
}
PAIRS = {
    "caption": "protocol da_2k: mean over all pairs",
    "images": 3,
    "groups": {"indoor": {"images": 1, "accuracy": 90.0}, "sports": {"images": 2, "accuracy": 100.0}},
    "mean": {"accuracy": 97.5},
}
RESULT = {
    "caption": "protocol nyu: cap 10 m",
    "images": 654,
    "groups": {"nyu": {"images": 654, "abs_rel": 0.0531, "delta1": 0.972, "silog": 9.0}},
    "mean": {"abs_rel": 0.0531, "delta1": 0.972, "silog": 9.0},
}


def test_model_card__the_hub_can_read_its_head():
    head = ModelCard(model_card(config(), {"experiment": "mine", "encoder": "hub", "results": [RESULT]})).data
    assert (head.license, head.library_name, head.pipeline_tag) == ("unknown", "transformers", "depth-estimation")
    assert head.base_model == "timm/vit_small_patch14_dinov2.lvd142m" and "relative depth" in head.tags
    assert [(result.metric_type, result.metric_value) for result in head.eval_results] == [
        ("abs_rel", 0.0531),
        ("delta1", 0.972),
    ]
    assert head.eval_results[0].dataset_name == "nyu (protocol nyu: cap 10 m)"


def test_model_card__invents_nothing():
    card = model_card(config(), {})
    head = ModelCard(card).data
    assert head.license == "unknown" and head.base_model is None and head.eval_results is None
    for unknown in (
        "experiment: not on record",
        "licence of these weights: not on record",
        "the encoder started from: not on record",
        "training data: not on record",
        "No evaluation is on record",
    ):
        assert unknown in card
    assert "Apache" not in card


def test_model_card__licences_of_data_and_of_the_teachers_data_are_carried_over():
    card = model_card(config(), {"licence": "cc-by-nc-4.0", "encoder": "hub", "data": [LABELLED, PSEUDO]})
    assert ModelCard(card).data.license == "cc-by-nc-4.0"
    lines = card.splitlines()
    own = lines.index("- `hrwsi`, 20,378 images with labels; licence: CC BY-NC 4.0 **(restricts use)**")
    assert lines[own + 1 : own + 4] == [
        "- `sa1b`, 11,000,000 images with the teacher's pseudo labels; licence: unknown",
        "  - teacher: v1_teacher_vitl (0123456789abcdef), licence: not on record",
        "    - `hrwsi`, 20,378 images with labels; licence: CC BY-NC 4.0 **(restricts use)**",
    ]
    assert "- the encoder started from: vit_small_patch14_dinov2.lvd142m (DINOv2, Apache-2.0)" in lines


@pytest.mark.parametrize("source", ["world", "hub:vit_small_patch14_reg4_dinov2.lvd142m", "mine.safetensors"])
def test_model_card__another_encoder_is_named_without_a_licence(source):
    assert f"the encoder started from: {source.removeprefix('hub:')}\n" in model_card(config(), {"encoder": source})


def test_model_card__an_encoder_of_ones_own_is_named_without_the_path():
    assert "the encoder started from: weights/mine.pth\n" in model_card(
        config(), {"encoder": "/home/me/weights/mine.pth"}
    )
    assert "the encoder started from: random weights\n" in model_card(config(), {"encoder": "none"})


def test_model_card__names_where_weights_came_from_without_the_path():
    for source in ("LiheYoung/depth-anything-small-hf", "/home/somebody/LiheYoung/depth-anything-small-hf"):
        assert "taken over from: LiheYoung/depth-anything-small-hf\n" in model_card(config(), {"source": source})


def test_model_card__says_which_number_it_is():
    relative, metric = model_card(config(), {}), model_card(config(kind="metric", max_depth_m=80.0), {})
    assert "relative **disparity**, larger is nearer" in relative and '.predict("photo.jpg").disparity' in relative
    assert "**depth in metres** along the optical axis, between 0 and 80" in metric and ".depth_m" in metric


def test_model_card__warns_of_other_numbers_only_where_positions_are_resampled_otherwise():
    assert "the way of `dinov2`" in model_card(config(), {})
    card = model_card(config(position="transformers"), {})
    assert "resample" not in card and "smooths a photograph" in card


def test_model_card__the_table_of_results():
    card = model_card(config(), {"results": [RESULT | {"size": 518}]})
    assert "654 images, shorter side 518; protocol nyu: cap 10 m." in card
    assert "| nyu | 654 | 0.0531 | 0.9720 |" in card


def test_model_card__of_pairs_of_points_the_accuracy_is_in_the_table_and_in_the_head():
    card = model_card(config(), {"results": [PAIRS]})
    lines = card.splitlines()
    assert lines[(first := lines.index("| test set | images | accuracy (%) ↑ |")) + 2 : first + 5] == [
        "| indoor | 1 | 90.0000 |",
        "| sports | 2 | 100.0000 |",
        "| **all pairs** | 3 | 97.5000 |",
    ]
    assert [result.metric_value for result in ModelCard(card).data.eval_results] == [90.0, 100.0]
