import pytest
import safetensors.torch
import torch
from networks import build, equal

from depth_anything_train.models.original import load_original, original_name, save_original
from depth_anything_train.runtime import UserError

HEADS = {"embed_dim": 384, "num_heads": 6}  # by which the released S is told
SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6, "name": "vits", "features": 8, "image_size": 70}


@pytest.fixture(scope="module")
def small():
    return build(**SMALL)


def save(path, model):
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "name, taps, max_depth_m",
    [
        ("depth_anything_vits14", (8, 9, 10, 11), None),
        ("depth_anything_v2_vits", (2, 5, 8, 11), None),
        ("depth_anything_v2_metric_hypersim_vits", (2, 5, 8, 11), 20.0),
        ("depth_anything_v2_metric_vkitti_vits", (2, 5, 8, 11), 80.0),
        ("depth_anything_v2_metric_35.5m_vits", (2, 5, 8, 11), 35.5),
    ],
)
def test_load__a_released_name_says_blocks_and_farthest_depth(tmp_path, small, name, taps, max_depth_m):
    model = small
    loaded = load_original(save(tmp_path / f"{name}.pth", model))
    assert equal(loaded, model)
    assert loaded.config.encoder.taps == taps and loaded.config.max_depth_m == max_depth_m
    assert loaded.config.encoder.num_heads == 6 and loaded.config.encoder.position == "dinov2"
    assert loaded.config.encoder.image_size == 70 and loaded.config.encoder.name == "vits"


def test_load__blocks_are_never_guessed(tmp_path, small):
    path = save(tmp_path / "mine.pth", small)
    with pytest.raises(UserError, match="V1 or a V2.*taps=last4"):
        load_original(path)
    assert load_original(path, taps="spread").config.encoder.taps == (2, 5, 8, 11)
    assert load_original(path, taps=[0, 3, 6, 11]).config.encoder.taps == (0, 3, 6, 11)
    with pytest.raises(UserError, match="four ascending blocks"):
        load_original(path, taps=[0, 3, 6, 12])


def test_load__a_metric_name_without_a_known_depth_asks_for_it(tmp_path, small):
    path = save(tmp_path / "my_metric_model.pth", small)
    with pytest.raises(UserError, match="give max_depth_m"):
        load_original(path, taps="spread")
    assert load_original(path, taps="spread", max_depth_m=10).config.kind == "metric"


@pytest.mark.parametrize("changes", [{}, {"ffn": "swiglu"}, {"taps": "spread", "depth": 8}])
def test_round_trip__keeps_every_bit(tmp_path, changes):
    model = build(**HEADS, **changes)
    torch.save(model.state_dict(), tmp_path / "released.pth")
    first = load_original(tmp_path / "released.pth", taps=model.config.encoder.taps)
    again = torch.load(save_original(tmp_path / "out", first), weights_only=True)
    released = torch.load(tmp_path / "released.pth", weights_only=True)
    assert list(again) == list(released) and all(torch.equal(again[name], released[name]) for name in released)


def test_save__what_a_name_can_say_is_read_back(tmp_path):
    for number, changes in enumerate(
        ({}, {"taps": "spread"}, {"taps": "spread", "kind": "metric", "max_depth_m": 20.0})
    ):
        model = build(**SMALL, **changes)
        loaded = load_original(save_original(tmp_path / str(number), model))
        assert equal(loaded, model) and loaded.config == model.config


def test_save__equal_weights_give_equal_bytes(tmp_path):
    a = save_original(tmp_path / "a", build(**HEADS))
    b = save_original(tmp_path / "b", build(**HEADS).to(memory_format=torch.channels_last))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("changes", [{}, {"embed_dim": 384, "num_heads": 12}])
def test_save__what_could_not_be_read_back_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match="released size .*cannot build; save it as hf or native"):
        save_original(tmp_path / "out", build(**changes))
    assert not (tmp_path / "out").exists()


def test_name__is_the_released_one_only_where_it_is_true():
    assert original_name(build(**SMALL).config) == "depth_anything_vits14"
    assert original_name(build(**SMALL, taps="spread").config) == "depth_anything_v2_vits"
    assert original_name(build(**SMALL, taps=[0, 3, 6, 11]).config) == "depth_anything_custom_vits"


def test_load__what_ddp_puts_before_the_names_is_left_out(tmp_path, small):
    wrapped = {f"module.{name}": tensor for name, tensor in small.state_dict().items()}
    torch.save({"model": wrapped}, tmp_path / "depth_anything_vits14.pth")
    assert equal(load_original(tmp_path / "depth_anything_vits14.pth"), small)


@pytest.mark.parametrize("taps", ["middle", ["a", 1, 2, 3], "0,1,2,3"])
def test_load__blocks_that_are_none_are_refused(tmp_path, small, taps):
    torch.save(small.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match="Expected taps to be last4, spread or a list of four blocks"):
        load_original(tmp_path / "mine.pth", taps=taps)


def test_load__safetensors_of_the_same_names(tmp_path, small):
    safetensors.torch.save_file(small.state_dict(), tmp_path / "depth_anything_vits14.safetensors")
    assert equal(load_original(tmp_path / "depth_anything_vits14.safetensors"), small)


def test_load__an_encoder_of_no_released_size_asks_for_its_heads(tmp_path):
    path = save(tmp_path / "depth_anything_vits14.pth", build())
    with pytest.raises(UserError, match="32 channels.*give num_heads"):
        load_original(path)
    assert equal(load_original(path, num_heads=2), build())


def test_load__other_networks_are_named(tmp_path, small):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "depth_anything_vits14.pth")
    with pytest.raises(UserError, match="Expected weights of a Depth Anything model"):
        load_original(tmp_path / "depth_anything_vits14.pth")
    torch.save({"core.core.pretrained.cls_token": torch.zeros(1)}, tmp_path / "depth_anything_vits14.pth")
    with pytest.raises(UserError, match="ZoeDepth"):
        load_original(tmp_path / "depth_anything_vits14.pth")
    tensors = dict(small.state_dict())
    tensors.pop("pretrained.norm.bias")
    torch.save(tensors, tmp_path / "depth_anything_vits14.pth")
    with pytest.raises(UserError, match="1 missing .first pretrained.norm.bias"):
        load_original(tmp_path / "depth_anything_vits14.pth")
