import pytest
import safetensors.torch
import torch
from networks import build, equal

from depth_anything_train.models.checkpoints import save_model
from depth_anything_train.models.encoder_weights import save_encoder
from depth_anything_train.models.huggingface import save_hf
from depth_anything_train.models.initialise import initialise_encoder
from depth_anything_train.models.loading import load_depth_model
from depth_anything_train.models.original import save_original
from depth_anything_train.runtime import UserError

SMALL = {"embed_dim": 384, "num_heads": 6, "depth": 12, "taps": "last4"}


@pytest.fixture
def model():
    return build(position="transformers", embed_dim=384, num_heads=6)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache as the hub's library leaves it, which it reads without a network."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def repository(name):
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        return folder / "snapshots" / ("0" * 40)

    return repository


def test_source__every_kind_of_place_gives_the_same_weights(tmp_path, model):
    save_model(tmp_path / "native", model, {"size": 112})
    save_model(tmp_path / "run" / "model", model, {"size": 112})
    save_hf(tmp_path / "hf", model, size=112, card="")
    file = save_original(tmp_path / "original", model)
    named = ("native/model.safetensors", "hf/model.safetensors", "hf/config.json", "run/model/model.json")
    for source in ("native", "run", "hf", *named):
        loaded, extra = load_depth_model(tmp_path / source)
        assert equal(loaded, model) and extra["size"] == 112
    for source in (file, file.parent):
        loaded, extra = load_depth_model(source)
        assert equal(loaded, model) and extra["size"] == 518


def test_source__a_hugging_face_folder_on_the_hub(hub, model):
    save_hf(hub("somebody/depth-tiny-hf"), model, size=112, card="")
    loaded, extra = load_depth_model("somebody/depth-tiny-hf")
    assert equal(loaded, model) and extra["size"] == 112


def test_source__a_released_file_on_the_hub(hub, model):
    save_original(hub("somebody/Depth-Tiny"), model)
    loaded, _ = load_depth_model("somebody/Depth-Tiny")
    assert equal(loaded, model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_source__what_the_released_code_pushed_to_the_hub(hub, tmp_path, name):
    model = build(**SMALL)
    for folder in (hub("somebody/depth_anything_vits14"), tmp_path / "depth_anything_vits14", tmp_path / "mine"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"encoder": "vits", "features": 64}')
        save = torch.save if name.endswith("bin") else safetensors.torch.save_file
        save(model.state_dict(), folder / name)
    cached = next((tmp_path / "hub").glob("*/snapshots/*"))
    named = tmp_path / "depth_anything_vits14"
    for source in ("somebody/depth_anything_vits14", named, named / name, named / "config.json", cached):
        loaded, _ = load_depth_model(source)
        assert equal(loaded, model) and loaded.config.encoder.taps == (8, 9, 10, 11)
    with pytest.raises(UserError, match="The name mine does not say whether"):
        load_depth_model(tmp_path / "mine")
    assert equal(load_depth_model(tmp_path / "mine", taps="last4")[0], model)


def test_source__weights_that_are_named_are_those_that_are_read(tmp_path):
    """Whatever else lies beside them."""
    models = {name: build(seed, **SMALL) for seed, name in enumerate(("pytorch_model.bin", "model.safetensors"))}
    (tmp_path / "config.json").write_text('{"encoder": "vits"}')
    torch.save(models["pytorch_model.bin"].state_dict(), tmp_path / "pytorch_model.bin")
    safetensors.torch.save_file(models["model.safetensors"].state_dict(), tmp_path / "model.safetensors")
    torch.save(models["model.safetensors"].state_dict(), tmp_path / "depth_anything_vits14.pth")
    for name, model in models.items():
        assert equal(load_depth_model(tmp_path / name, taps="last4")[0], model)


def test_source__weights_that_transformers_saved_in_another_way_are_named(tmp_path, model):
    save_hf(tmp_path, model, size=112, card="")
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="Expected model.safetensors beside config.json in"):
        load_depth_model(tmp_path)


def test_source__a_name_that_the_hub_does_not_have_is_one_sentence(hub):
    with pytest.raises(UserError, match="no such folder and the hub gave"):
        load_depth_model("somebody/nothing")


def test_source__a_mistyped_path_never_asks_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("depth_anything_train.models.loading.from_hub", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="runs/techer does not exist"):
        load_depth_model("runs/techer")


def test_source__settings_that_it_states_itself_are_refused(tmp_path, model):
    save_model(tmp_path, model)
    with pytest.raises(UserError, match="leave out taps"):
        load_depth_model(tmp_path, taps="last4")


def test_source__several_released_files_have_to_be_told_apart(tmp_path, model):
    for name in ("depth_anything_vits14", "depth_anything_v2_vits"):
        torch.save(model.state_dict(), tmp_path / f"{name}.pth")
    with pytest.raises(UserError, match="holds 2 .pth files"):
        load_depth_model(tmp_path)


def test_source__other_files_and_empty_folders_say_what_is_taken(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    for source in (tmp_path / "photo.jpg", tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="Expected a model folder, a run folder, a checkpoint"):
            load_depth_model(source)


def test_source__an_unfinished_run_names_its_newest_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"step-{step:08d}.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="without a finished model.*checkpoints/step-00000010.ckpt"):
        load_depth_model(tmp_path)


def test_source__a_folder_of_checkpoints_says_what_to_name_instead(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000010.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"such as .*step-00000010.ckpt\.$"):
        load_depth_model(tmp_path / "checkpoints")
    save_model(tmp_path / "model", build())
    with pytest.raises(UserError, match=f"step-00000010.ckpt, or {tmp_path}, whose training is finished"):
        load_depth_model(tmp_path / "checkpoints")


def test_source__an_encoder_alone_names_the_key_that_takes_it(tmp_path, model):
    save_encoder(tmp_path / "run" / "model", model.pretrained, {})
    (tmp_path / "run" / "metrics.jsonl").touch()
    for source in ("run", "run/model", "run/model/encoder.safetensors", "run/model/encoder.json"):
        with pytest.raises(UserError, match="an encoder alone.*encoder=.*in place of init") as refused:
            load_depth_model(tmp_path / source)
    named = str(refused.value).partition("encoder=")[2].partition(" ")[0]
    initialise_encoder(build(embed_dim=384, num_heads=6), named)
