import json

import pytest
import torch
from huggingface_hub import ModelCard
from networks import build

from depth_anything_train.export.command import main
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.load import load_predictor
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    DepthAnything(build(), size=28, extra={"experiment": "mine"}, device="cpu").save_pretrained(path)
    return path


@pytest.fixture
def export(monkeypatch, folder, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        model = [] if any(str(argument).startswith("model=") for argument in arguments) else [f"model={folder}"]
        monkeypatch.setattr("sys.argv", ["depth-anything", *model, *map(str, arguments)])
        main()

    return call


def write_results(folder, **model):
    row = {"images": 3, "abs_rel": 0.25, "delta1": 0.5}
    content = {"caption": "protocol relative", "groups": {"rooms": row}, "mean": row, "images": 3, "model": model}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_export__onnx_that_the_check_accepts(export, tmp_path, capsys):
    export("format=onnx", f"out={tmp_path / 'model.onnx'}", "size=28", "batch_size=1")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    export(f"check={tmp_path / 'model.onnx'}")
    assert capsys.readouterr().err.count("model.onnx: the model's numbers to") == 2


def test_export__hugging_face_folder_with_a_card(export, folder, tmp_path):
    model = DepthAnything.from_pretrained(folder, device="cpu")
    results = write_results(tmp_path / "results", name="mine", hash=model.hash, size=None)
    export("format=hf", f"out={tmp_path / 'hf'}", "licence=apache-2.0", f"results=[{results}]")
    assert DepthAnything.from_pretrained(tmp_path / "hf", device="cpu").hash == model.hash
    head = ModelCard.load(tmp_path / "hf" / "README.md").data
    assert head.license == "apache-2.0" and head.eval_results[0].metric_value == 0.25
    assert "3 images, shorter side 28; protocol relative." in (tmp_path / "hf" / "README.md").read_text()


def test_export__results_of_the_same_weights_with_other_settings_are_not_quoted(export, tmp_path, capsys):
    judged = DepthAnything(build(kind="metric", max_depth_m=20.0, position="transformers"), size=28, device="cpu")
    other = DepthAnything(build(kind="metric", max_depth_m=80.0), size=28, device="cpu")
    assert judged.hash == other.hash
    other.save_pretrained(tmp_path / "other")
    results = write_results(tmp_path / "results", name="mine", hash=judged.hash, setup=judged.setup, size=None)
    with pytest.raises(SystemExit):
        export(f"model={tmp_path / 'other'}", "format=hf", f"out={tmp_path / 'hf'}", f"results=[{results}]")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "in another setup (position was transformers, is dinov2, max_depth_m was 20.0, is 80.0)" in said


def test_setup__is_what_a_file_gives_back():
    models = [build(), build(kind="metric", max_depth_m=None, bins={"domains": [["indoor", 0.1, 10.0]]})]
    for model in models:
        assert json.loads(json.dumps(model.config.setup())) == model.config.setup()
    assert models[0].config.setup() != models[1].config.setup()


@pytest.mark.parametrize("key", ["size=28", "batch_size=1", "licence=mit", "results=[x]"])
def test_export__a_key_of_another_format_is_refused(export, capsys, key):
    format = "native" if key[:4] in ("size", "batc") else "onnx"
    with pytest.raises(SystemExit):
        export(f"format={format}", "out=x.onnx", key)
    assert f"but this is format={format}; leave it out" in capsys.readouterr().err


def test_export__a_place_below_the_home_folder(export, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    export("format=native", "out='~/model'")
    assert (tmp_path / "home" / "model" / "model.json").is_file() and not (tmp_path / "~").exists()


def test_export__the_released_layout(export, tmp_path):
    small = DepthAnything(build(embed_dim=384, num_heads=6, name="vits"), size=28, device="cpu")
    small.save_pretrained(tmp_path / "small")
    export(f"model={tmp_path / 'small'}", "format=original", f"out={tmp_path / 'original'}")
    assert DepthAnything.from_pretrained(tmp_path / "original", device="cpu").hash == small.hash


def test_export__the_command_that_an_unknown_file_name_asks_for_makes_it_known(export, tmp_path):
    small = build(embed_dim=384, num_heads=6, depth=12, taps="spread")
    torch.save(small.state_dict(), tmp_path / "my_metric_model.pth")
    with pytest.raises(UserError, match="alike.*written by: depth-anything export") as unknown:
        load_predictor(tmp_path / "my_metric_model.pth")
    with pytest.raises(UserError, match="metres.*written by: depth-anything export") as without_depth:
        DepthAnything.from_pretrained(tmp_path / "my_metric_model.pth", taps="spread")
    asked = [word for error in (unknown, without_depth) for word in str(error.value).split(" export ")[-1].split()]
    ours = {"taps=...": "taps=spread", "max_depth_m=...": "max_depth_m=20", "out=FOLDER": "out=known"}
    export(*{ours.get(key, key) for key in asked})
    known = load_predictor(tmp_path / "known", device="cpu")
    assert known.model.config.encoder.taps == (2, 5, 8, 11) and known.model.config.max_depth_m == 20


@pytest.mark.parametrize("format", ["hf", "native", "original"])
def test_export__into_a_run_or_a_model_of_another_format_is_refused(export, tmp_path, format, capsys):
    for place, name in (("run", "metrics.jsonl"), ("other", "model.json" if format == "hf" else "config.json")):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).write_text("{}")
        with pytest.raises(SystemExit):
            export(f"model={tmp_path / 'nothing'}", f"format={format}", f"out={tmp_path / place}")
        assert f"holds {name}; name another" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / place).iterdir()] == [name]


def test_export__a_place_that_cannot_be_written_to_is_told_before_the_model_is_read(export, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for format, out, message in (
        ("onnx", tmp_path / "file" / "model.onnx", "Expected a folder to write to"),
        ("onnx", tmp_path, "Expected a file such as"),
        ("hf", tmp_path / "file", "Expected a folder to write to"),
    ):
        with pytest.raises(SystemExit):
            export(f"model={tmp_path / 'nothing'}", f"format={format}", f"out={out}")
        assert message in capsys.readouterr().err


def test_export__tells_what_is_wrong_in_one_sentence(export, tmp_path, capsys):
    other = write_results(tmp_path / "other", name="theirs", hash="0")
    older = write_results(tmp_path / "older", name="mine")
    for arguments, message in (
        (["out=x"], "needs a value for format"),
        (["format=coreml", "out=x"], "Expected a format out of native, hf, original, onnx, but got 'coreml'"),
        (["format=original", "out=x"], "got test with 32 channels in 2 heads, which the released code cannot build"),
        (["format=onnx", "out=x.onnx", "size=30"], "multiple of the patch size 14"),
        (["format=onnx", "out=notes.txt"], "Expected a file whose name ends in .onnx as out, but got notes.txt"),
        (["format=hf", "out=x", f"results=[{other}]"], "of another model (theirs)"),
        (["format=hf", "out=x", f"results=[{older}]"], "Expected the key hash in"),
        (["format=hf", "out=x", f"results=[{tmp_path}]"], "Expected the file"),
        ([f"check={other / 'results.json'}"], "Expected an ONNX file"),
    ):
        with pytest.raises(SystemExit) as stop:
            export(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
