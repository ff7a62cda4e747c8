import csv
import json
import os
import random

import cv2
import numpy as np
import pytest
import torch
from scenes import encode, scene, write_shards

from data_engine.writer import ShardWriter
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.schema import Record
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.evaluate import main
from depth_anything_train.evaluation.files import refuse_others
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.mean_map import MeanMap
from depth_anything_train.metrics.depth import DepthProtocol, evaluate_image
from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.runtime import UserError

META = {"unit": "m", "quantity": "disparity", "scale": 1.0}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = build_depth_model(
        name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8] * 4, image_size=28
    )
    return DepthAnything(network, size=28, device="cpu")


def record(number, *, domain="rooms", image=None, valid=None):
    picture, disparity = scene(number)
    valid = np.ones(disparity.shape, bool) if valid is None else np.broadcast_to(valid, disparity.shape)
    members = {
        "jpg": encode(picture) if image is None else image,
        "disparity.dz16": encode_dz16(disparity, valid),
        "json": json.dumps(META | {"domain": domain}).encode(),
    }
    return Record(f"scene-{number:04d}", members)


class Oracle:
    """Knows the true disparity of the scenes up to scale and shift."""

    hash, kind = "oracle", "relative"

    def __init__(self, numbers):
        self.answers = iter([3 * scene(number)[1] + 7 for number in numbers])

    def forward(self, images, size=None, focals_px=None):
        return [next(self.answers) for _ in images]


def test_evaluate__the_truth_up_to_scale_and_shift_is_perfect():
    results = evaluate(Oracle(range(4)), {"rooms": [record(k) for k in range(4)]}, DepthProtocol())
    assert results.mean()["abs_rel"] == pytest.approx(0, abs=1e-4)
    assert results.mean()["delta1"] == 1


def test_evaluate__marked_sky_is_not_judged(model):
    height = scene(0)[1].shape[0]
    plain = record(0, valid=np.arange(height)[:, None] >= 10)
    sky = np.full(scene(0)[1].shape, 255, np.uint8)
    marked = Record(plain.key, plain.members | {"sky.png": cv2.imencode(".png", sky)[1].tobytes()})
    assert (
        evaluate(model, {"d": [marked]}, DepthProtocol()).images
        == evaluate(model, {"d": [plain]}, DepthProtocol()).images
    )


def test_evaluate__numbers_do_not_depend_on_the_order_of_the_images(model):
    records = [record(k, domain="abc"[k % 3]) for k in range(9)]
    shuffled = random.Random(0).sample(records, len(records))
    one, other = (evaluate(model, {"d": data}, DepthProtocol(), split_by="domain") for data in (records, shuffled))
    assert one.images == other.images
    assert one.groups() == other.groups() and one.mean() == other.mean()


def test_evaluate__a_batch_changes_nothing_but_rounding(model):
    records = [record(k) for k in range(5)]
    records.insert(2, Record("large", record(9).members | {"jpg": encode(scene(9, 84, 112)[0])}))
    one, other = (evaluate(model, {"d": records}, DepthProtocol(), batch_size=batch) for batch in (1, 4))
    assert [image.key for image in one.images] == [image.key for image in other.images]
    assert one.mean() == pytest.approx(other.mean(), rel=1e-4)


def test_evaluate__what_cannot_be_judged_is_counted_by_reason(model):
    records = [
        record(0),
        record(1, image=encode(scene(1)[0])[:200]),
        record(2, valid=False),
        Record("unlabelled", {"jpg": encode(scene(3)[0])}),
        record(4, image=encode(scene(4, 28, 140)[0])),
    ]
    results = evaluate(model, {"d": records}, DepthProtocol())
    assert [image.key for image in results.images] == ["scene-0000"]
    assert results.skipped == {
        "truncated_image": 1,
        "too_few_valid_pixels": 1,
        "missing_label": 1,
        "label_size": 1,
    }


def test_evaluate__a_field_that_few_samples_have_splits_them(model):
    records = [record(number) for number in range(20)]
    rainy = Record(records[1].key, records[1].members | {"json": json.dumps(META | {"weather": "rain"}).encode()})
    results = evaluate(model, {"d": [records[0], rainy, *records[2:]]}, DepthProtocol(), split_by="weather")
    assert [image.group for image in results.images] == ["rain"] and results.skipped == {"no_weather": 19}
    with pytest.raises(UserError, match="none of d has visibility"):
        evaluate(model, {"d": records}, DepthProtocol(), split_by="visibility")
    with pytest.raises(UserError, match="got qantity; there are"):
        evaluate(Blind(), {"d": records}, DepthProtocol(), split_by="qantity")


class Blind:
    kind = "relative"


def test_evaluate__stops_where_nothing_can_be_judged(model):
    with pytest.raises(UserError, match="1 x too_few_valid_pixels"):
        evaluate(model, {"d": [record(0, valid=False)]}, DepthProtocol())
    with pytest.raises(UserError, match="split_by, but got weather; there are domain, quantity, scale, unit"):
        evaluate(Blind(), {"d": [record(0)]}, DepthProtocol(), split_by="weather")  # before anything is predicted
    with pytest.raises(UserError, match="1 x no_weather, 1 x too_few_valid_pixels"):
        blank = record(1, valid=False)
        rainy = Record(blank.key, blank.members | {"json": json.dumps(META | {"weather": "rain"}).encode()})
        evaluate(model, {"d": [record(0), rainy]}, DepthProtocol(), split_by="weather")


def test_evaluate__a_relative_model_has_no_metres(model):
    with pytest.raises(UserError, match="relative model"):
        evaluate(model, {"d": [record(0)]}, DepthProtocol(alignment="none"))


# -- The command. ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    def call(*arguments, out="out"):
        monkeypatch.setattr("sys.argv", ["depth-anything", f"out={tmp_path / out}", *map(str, arguments)])
        main()
        return json.loads((tmp_path / out / "results.json").read_text())

    return call


def write_domains(folder):
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for k in range(6):
            sample = record(k, domain=("rooms", "streets")[k % 2])
            writer.add(sample.key, sample.members)
        writer.commit()
    (folder / "dataset.json").write_text('{"schema": 1, "kind": "labelled", "source": "scenes"}')
    return folder


def test_command__images_may_be_stretched_to_a_pair_of_sides(run, model, tmp_path):
    model.save_pretrained(tmp_path / "run" / "model")
    written = run(f"model={tmp_path / 'run'}", f"data={write_domains(tmp_path / 'tests')}", "size=[28,42]")
    assert written["model"]["size"] == [28, 42] and "network at 28 x 42 pixels" in written["caption"]
    assert "network at 28 x 42 pixels" in (tmp_path / "out" / "results.md").read_text()
    assert "network at 28 x 42 pixels" in (tmp_path / "out" / "page.html").read_text()


def test_command__labelled_folders_of_a_model_that_reads_none_are_refused(run, model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    data = write_domains(tmp_path / "tests")
    for arguments, said in (
        ([f"labelled=[{data}]", f"data={data}"], "labelled= belongs to model=mean_map"),
        (["data=[]"], "or a mapping {name: folder}, but got none"),
    ):
        with pytest.raises(SystemExit):
            run(f"model={tmp_path / 'model'}", *arguments)
        assert said in capsys.readouterr().err


def test_command__model_folder_by_domain(run, model, tmp_path):
    model.save_pretrained(tmp_path / "run" / "model")
    data = write_domains(tmp_path / "tests")
    written = run(f"model={tmp_path / 'run'}", f"data={data}", "split_by=domain", "batch_size=1")
    assert written["model"] == {"name": "run", "hash": model.hash, "setup": model.setup, "size": None}
    assert written["protocol"] == DepthProtocol().to_dict() and written["images"] == 6 and written["skipped"] == {}
    assert {name: group["images"] for name, group in written["groups"].items()} == {"rooms": 3, "streets": 3}
    assert set(written["provenance"]) >= {"command", "commit", "versions"}

    with open(tmp_path / "out" / "results.csv") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    sample = ShardFolder(data)[3]
    image, disparity = scene(3)
    prediction = model.predict(sample.image).disparity
    expected = evaluate_image(prediction, disparity, np.ones(disparity.shape, bool), DepthProtocol())
    assert float(rows["scene-0003"]["abs_rel"]) == pytest.approx(expected["abs_rel"], rel=1e-3)
    assert f"{written['mean']['abs_rel']:.4f}" in (tmp_path / "out" / "results.md").read_text()
    assert image.shape[:2] == disparity.shape


@pytest.mark.parametrize("models", [["model={}"], ["suite=v1_table2", "models={{mine: {}}}"]])
def test_command__a_device_that_is_not_there_is_refused(run, model, tmp_path, capsys, models):
    model.save_pretrained(tmp_path / "model")
    named = [text.format(tmp_path / "model") for text in models]
    data = write_domains(tmp_path / "tests")
    with pytest.raises(SystemExit):
        run(*named, f"data={{nyu: {data}}}", "device=nowhere")
    assert "Expected a device such as cpu or cuda, but nowhere cannot be used" in capsys.readouterr().err


def test_command__results_of_anything_else_are_not_replaced(run, labelled_shards, tmp_path, capsys):
    folder, out = write_domains(tmp_path / "tests"), tmp_path / "out"
    arguments = ["model=mean_map", f"labelled=[{labelled_shards}]", f"data={folder}", "limit=2", "page=false"]
    model = {key: value for key, value in run(*arguments)["model"].items() if key != "name"}
    kept = (out / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        run(*arguments, "benchmark=paper/nyu")
    assert "holds results of another protocol (relative); choose another out=" in capsys.readouterr().err
    for changed, message in ((["split_by=domain"], "another split_by (none)"), (["limit=null"], "another limit (2)")):
        with pytest.raises(SystemExit):
            run(*arguments, *changed)
        assert f"holds results of {message}; choose another out=" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == kept

    data = {"tests": ShardFolder(folder)}
    refuse_others(out, model, data, {"protocol": DepthProtocol().to_dict()})  # the same
    for other, shards, message in (
        (model | {"hash": "0"}, data, r"of another model \(mean_map\); choose"),
        (
            model | {"setup": {"taps": [0, 1, 2, 3]}},
            data,
            r"of the same weights in another setup \(taps was nothing, is \[0, 1, 2, 3\]\)",
        ),
        (model | {"size": 56}, data, r"of another input size \(its own\); choose"),
        (model, {"tests": ShardFolder(labelled_shards)}, "other data"),
        (model | {"hash": "0"}, {}, "another model .* and other data"),
    ):
        with pytest.raises(UserError, match=message):
            refuse_others(out, other, shards, {})


def test_command__limit_is_spread_evenly_over_each_folder(run, labelled_shards, tmp_path):
    data = write_domains(tmp_path / "tests")
    written = run("model=mean_map", f"labelled=[{labelled_shards}]", f"data={{a: {data}, b: {data}}}", "limit=2")
    with open(tmp_path / "out" / "results.csv") as file:
        rows = [(row["group"], row["key"]) for row in csv.DictReader(file)]
    assert rows == [(group, key) for group in "ab" for key in ("scene-0000", "scene-0003")]
    assert written["limit"] == 2 and "scene-0003" in (tmp_path / "out" / "page.html").read_text()


def test_command__results_of_an_older_version_count_as_whole_sets(run, labelled_shards, tmp_path, capsys):
    arguments = ["model=mean_map", f"labelled=[{labelled_shards}]", f"data={write_domains(tmp_path / 'tests')}"]
    written = run(*arguments, "page=false")
    older = {key: value for key, value in written.items() if key not in ("limit", "split_by")}
    (tmp_path / "out" / "results.json").write_text(json.dumps(older))
    with pytest.raises(SystemExit):
        run(*arguments, "page=false", "limit=2")
    assert "holds results of another limit (none); choose" in capsys.readouterr().err
    assert run(*arguments, "page=false")["mean"] == written["mean"]


def test_command__mean_map_is_judged_like_a_model(run, labelled_shards, tmp_path):
    data = write_domains(tmp_path / "tests")
    written = run("model=mean_map", f"labelled=[{labelled_shards}]", f"data={{mine: {data}}}")
    labels = [(scene(k)[1], np.ones(scene(k)[1].shape, bool)) for k in range(11)]
    mean_map = MeanMap.from_labels(labels)
    expected = evaluate(mean_map, {"mine": ShardFolder(data)}, DepthProtocol())
    assert written["groups"]["mine"]["abs_rel"] == pytest.approx(expected.mean()["abs_rel"], rel=1e-3)


def test_command__benchmark_is_the_protocol(run, labelled_shards, tmp_path):
    data = write_domains(tmp_path / "tests")
    written = run("model=mean_map", f"labelled=[{labelled_shards}]", f"data=[{data}]", "benchmark=paper/nyu", "limit=2")
    assert (written["protocol"]["cap_m"], written["protocol"]["crop"]) == (10.0, "eigen_nyu")
    assert written["images"] == 2


def test_command__tells_what_is_wrong_in_one_sentence(run, labelled_shards, image_shards, tmp_path, capsys):
    for arguments, message in (
        ([f"model={tmp_path}", f"data={labelled_shards}"], "Expected a model folder"),
        (["model=mean_map", f"data={labelled_shards}"], "add labelled="),
        (["model=mean_map", f"labelled=[{labelled_shards}]", f"data={image_shards}"], "Expected labelled shards"),
        (["model=mean_map", f"labelled=[{labelled_shards}]", f"data={tmp_path / 'none'}"], "does not exist"),
        (
            ["model=mean_map", f"labelled=[{labelled_shards}]", f"data={labelled_shards}", "benchmark=paper/nyuv"],
            "benchmark=paper/nyu?",
        ),
        (["model=mean_map", f"labelled=[{labelled_shards}]", "data=7"], "Expected a folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_command__damaged_shard_samples_are_skipped(run, labelled_shards, tmp_path):
    data = write_shards(tmp_path / "tests", "labelled", counts=(4,))
    tar = data / "shard-000000.tar"
    with open(tar, "r+b") as file:
        file.seek(os.path.getsize(tar) // 3)
        file.write(b"\xff" * 64)
    written = run("model=mean_map", f"labelled=[{labelled_shards}]", f"data={data}")
    assert written["images"] == 3 and written["skipped"] == {"damaged_sample": 1}
