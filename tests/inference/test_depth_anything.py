import copy

import numpy as np
import PIL.Image
import pytest
import torch
from networks import build
from scenes import encode, scene

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.models.depth_model import DepthModel, build_depth_model
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def network() -> DepthModel:
    torch.manual_seed(0)
    return build_depth_model(
        name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8] * 4, image_size=28
    )


@pytest.fixture
def model(network):
    return DepthAnything(network, size=28, extra={"experiment": "none"}, device="cpu")


def test_predict__path_bytes_array_and_pillow_image_agree(model, tmp_path):
    image, _ = scene(0)
    (tmp_path / "photo.png").write_bytes(encode(image, "png"))
    prediction = model.predict(tmp_path / "photo.png")
    assert prediction.disparity.shape == image.shape[:2]
    assert prediction.disparity.dtype == np.float32 and np.isfinite(prediction.disparity).all()
    content = encode(image, "png")
    for other in (str(tmp_path / "photo.png"), content, memoryview(content), image, PIL.Image.fromarray(image)):
        assert (model.predict(other).disparity == prediction.disparity).all()


def test_predict__a_list_of_several_sizes_gives_a_prediction_for_each(model):
    images = [scene(0)[0], scene(1, 50, 40)[0], scene(2)[0], PIL.Image.fromarray(scene(3, 50, 40)[0])]
    predictions = model.predict(images)
    assert [p.disparity.shape for p in predictions] == [(42, 56), (50, 40), (42, 56), (50, 40)]
    for image, prediction in zip(images, predictions, strict=True):
        assert np.abs(model.predict(image).disparity - prediction.disparity).max() < 1e-5
    assert model.predict([]) == []


def test_predict__weights_that_give_no_finite_number_are_refused_as_on_the_command_line(network):
    broken = copy.deepcopy(network)
    torch.nn.init.constant_(broken.pretrained.norm.weight, float("nan"))
    with pytest.raises(UserError, match="Expected a finite prediction"):
        DepthAnything(broken, size=28, device="cpu").predict(scene(0)[0])


def test_predict__says_which_array_of_a_list_is_none(model):
    with pytest.raises(UserError, match="image 1: Expected an image as uint8"):
        model.predict([scene(0)[0], scene(1)[0].astype(float)])


@pytest.mark.parametrize("size", [np.int64(28), (np.int64(28), np.int64(42)), np.array([28, 42])])
@pytest.mark.parametrize("format", ["native", "hf"])
def test_save_pretrained__a_size_in_numpys_numbers_is_one(network, tmp_path, size, format):
    plain = np.asarray(size).tolist()
    model = DepthAnything(network, size=size, device="cpu")
    model.save_pretrained(tmp_path, format=format)
    assert DepthAnything.from_pretrained(tmp_path, device="cpu").size == model.size == plain
    image = scene(0)[0]
    assert (model.predict(image, size=size).disparity == model.predict(image, size=plain).disparity).all()


def test_save_pretrained__what_cannot_be_written_leaves_the_model_that_is_there(network, model, tmp_path):
    model.save_pretrained(tmp_path)
    other = copy.deepcopy(network)
    torch.nn.init.zeros_(other.pretrained.cls_token)
    with pytest.raises(TypeError, match="not JSON serializable"):
        DepthAnything(other, size=28, extra={"from": tmp_path}, device="cpu").save_pretrained(tmp_path)
    assert DepthAnything.from_pretrained(tmp_path, device="cpu").hash == model.hash


def test_forward__of_a_batch_is_that_of_single_images_at_network_resolution(model):
    images = [scene(k)[0] for k in range(3)]
    batch = model.forward(images)
    assert [d.shape for d in batch] == [(28, 42)] * 3  # 42 x 56 pixels: 28 x 37.3, the nearest multiple of 14 is 42
    for image, disparity in zip(images, batch, strict=True):
        assert np.abs(model.forward([image])[0] - disparity).max() < 1e-5
    assert model.forward(images, size=42)[0].shape == (42, 56)


def test_save_pretrained__from_pretrained_gives_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    image, _ = scene(1)
    for source in (tmp_path / "model", str(tmp_path)):  # the model folder, and a run folder that holds it
        loaded = DepthAnything.from_pretrained(source, device="cpu")
        assert loaded.size == 28 and loaded.extra["experiment"] == "none" and loaded.hash == model.hash
        assert (loaded.predict(image).disparity == model.predict(image).disparity).all()


def test_from_pretrained__says_what_it_takes(tmp_path):
    with pytest.raises(UserError, match="Expected a model folder.*does not exist"):
        DepthAnything.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds none"):
        DepthAnything.from_pretrained(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="without a finished model"):
        DepthAnything.from_pretrained(tmp_path)


@pytest.fixture
def canonical():
    """A metric model for a camera of 100 pixels focal length, and the same network without one."""
    networks = [build(kind="metric", max_depth_m=20.0, canonical_focal_px=focal) for focal in (100.0, None)]
    return [DepthAnything(network, size=28, device="cpu") for network in networks]


def test_predict__metres_of_a_canonical_camera_grow_with_the_focal_length(canonical):
    model, plain = canonical
    image = scene(0, 56, 56)[0]
    expected = plain.predict(image).depth_m
    for focal_px, factor in ((200.0, 1.0), (400.0, 2.0)):  # half of it in the 28 pixels that the network sees
        np.testing.assert_allclose(model.predict(image, focal_px=focal_px).depth_m, factor * expected, rtol=1e-6)
    half = plain.predict(image, size=56).depth_m * 2  # a larger view looks nearer to the network, and is not
    np.testing.assert_allclose(model.predict(image, size=56, focal_px=200.0).depth_m, half, rtol=1e-6)


def test_predict__a_canonical_camera_needs_a_focal_length(canonical, tmp_path):
    model, plain = canonical
    image = scene(0)[0]
    assert (plain.predict(image, focal_px=300.0).depth_m == plain.predict(image).depth_m).all()
    with pytest.raises(UserError, match="focal_px=.*fov_deg="):
        model.predict(image)
    model.save_pretrained(tmp_path / "model")
    loaded = DepthAnything.from_pretrained(tmp_path / "model", device="cpu")
    assert (loaded.predict(image, focal_px=300.0).depth_m == model.predict(image, focal_px=300.0).depth_m).all()
    for format in ("hf", "original"):
        with pytest.raises(UserError, match="format=native.*canonical camera"):
            model.save_pretrained(tmp_path / format, format=format)


@pytest.mark.parametrize("format", ["native", "hf", "original"])
def test_save_pretrained__in_every_format_predicts_the_same_at_the_native_size(network, tmp_path, format):
    # At 28 pixels, the grid of the position embedding, the ways of resampling it do not differ.
    released = build(embed_dim=384, num_heads=6, image_size=28)  # the only sizes of the original
    model = DepthAnything(released if format == "original" else network, size=28, device="cpu")
    model.save_pretrained(tmp_path / "model", format=format)
    loaded = DepthAnything.from_pretrained(tmp_path / "model", device="cpu")
    image = scene(0)[0][:40, :40]
    assert (loaded.predict(image, size=28).disparity == model.predict(image, size=28).disparity).all()
    assert loaded.hash == model.hash


@pytest.mark.parametrize(
    ("name", "content"), [("README.md", "my notes"), ("config.json", '{"mine": 1}'), ("config.json", "// mine")]
)
def test_save_pretrained__writes_over_nothing_of_another_project(name, content, network, tmp_path):
    (tmp_path / name).write_text(content)
    model = DepthAnything(network, size=28, device="cpu")
    with pytest.raises(UserError, match=f"Expected a folder for the model alone, but .* holds another {name}"):
        model.save_pretrained(tmp_path, format="hf")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content


@pytest.mark.parametrize("lost", [None, "config.json"])
def test_save_pretrained__a_model_is_written_over_even_if_that_was_broken_off(lost, network, tmp_path):
    model = DepthAnything(network, size=28, device="cpu")
    model.save_pretrained(tmp_path, format="hf")
    if lost is not None:
        (tmp_path / lost).unlink()
    model.save_pretrained(tmp_path, format="hf")
    assert (DepthAnything.from_pretrained(tmp_path, device="cpu").hash) == model.hash


def test_predict__a_damaged_image_of_a_list_is_named(model, tmp_path):
    content = encode(scene(0)[0], "png")
    (tmp_path / "good.png").write_bytes(content)
    (tmp_path / "bad.png").write_bytes(content[:200])
    with pytest.raises(BadSample, match=r"bad\.png: The png image"):
        model.predict([tmp_path / "good.png", str(tmp_path / "bad.png")])
    with pytest.raises(BadSample, match="image 1: The png image"):
        model.predict([content, content[:200]])


def test_save_pretrained__to_a_file_is_refused(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected a folder to write to as out"):
        model.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(("first", "then"), [("native", "hf"), ("hf", "native")])
def test_save_pretrained__does_not_write_over_a_model_of_another_format(network, tmp_path, first, then):
    model = DepthAnything(network, size=28, device="cpu")
    model.save_pretrained(tmp_path / "m", format=first)
    with pytest.raises(UserError, match="Expected no model of another format"):
        model.save_pretrained(tmp_path / "m", format=then)
    model.save_pretrained(tmp_path / "m", format=first)
    assert DepthAnything.from_pretrained(tmp_path / "m", device="cpu").hash == model.hash


def test_save_pretrained__home_is_meant_by_its_sign(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save_pretrained("~/m")
    assert (tmp_path / "m" / "model.json").exists()


def test_predict__is_by_the_model_that_took_another_ones_place(model):
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    before = model.predict(image).values
    other = copy.deepcopy(model.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    model.model = other
    assert not np.allclose(model.predict(image).values, before)


def test_save_pretrained__an_unknown_format_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="native, hf, original"):
        model.save_pretrained(tmp_path / "model", format="onnx")


def test_predict__says_what_is_wrong_with_an_image(model, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        model.predict(tmp_path / "missing.jpg")
    with pytest.raises(UserError, match="Expected an image as uint8"):
        model.predict(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(UserError, match="Expected an image as uint8"):
        model.predict(np.zeros((4, 4), np.float32))
    with pytest.raises(BadSample):
        model.predict(b"no image at all")


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 28.5}, {"size": "28"}, {"focal_px": 0.0}, {"focal_px": -9.0}])
def test_predict__a_size_or_focal_length_that_cannot_be_is_refused(model, wrong):
    with pytest.raises(UserError, match=f"Expected (a )?{[*wrong][0]}"):
        model.predict(scene(0)[0], **wrong)


def test_predict__takes_the_whole_numbers_of_numpy(model):
    image = scene(0)[0]
    assert (model.predict(image, size=np.int64(28)).disparity == model.predict(image, size=28).disparity).all()


def test_depth_m__of_a_relative_model_says_what_to_do(model):
    with pytest.raises(UserError, match="use .disparity"):
        _ = model.predict(scene(2)[0]).depth_m


def test_disparity__of_a_metric_prediction_is_its_inverse():
    prediction = Prediction(np.array([[0.5, 4.0]], np.float32), "metric")
    assert prediction.depth_m.tolist() == [[0.5, 4.0]]
    assert prediction.disparity.tolist() == [[2.0, 0.25]]


def test_precision__bf16_is_close_and_keeps_the_hash_of_the_weights(network):
    image = scene(0)[0]
    exact = DepthAnything(network, size=28, device="cpu")
    hash_before, expected = exact.hash, exact.predict(image).disparity
    half = DepthAnything(copy.deepcopy(network), size=28, device="cpu", precision="bf16")
    assert half.hash == hash_before
    assert 0 < np.abs(half.predict(image).disparity - expected).max() < 0.05 * expected.max()


@pytest.mark.parametrize("option", [{"precision": "fp8"}, {"attention": "flash"}, {"device": "abacus"}])
def test_options__unknown_ones_are_one_sentence(network, option):
    with pytest.raises(UserError, match="Expected"):
        DepthAnything(network, **{"device": "cpu", **option})


def test_save_pretrained__refuses_to_write_rounded_weights(network, tmp_path):
    half = DepthAnything(copy.deepcopy(network), size=28, device="cpu", precision="bf16")
    with pytest.raises(UserError, match="precision=fp32"):
        half.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
