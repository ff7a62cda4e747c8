"""Suites on miniatures of the official layouts, prepared and evaluated by the commands that a user would type."""

import csv
from functools import cache

import pytest
from miniatures import write_benchmarks, writers
from omegaconf import OmegaConf
from scenes import write_shards

from depth_anything_train.composition import compose, config_folder
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.evaluation.run import named_models
from depth_anything_train.evaluation.suite import Cell, find_data, read_suite
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.metrics.results import METRICS
from depth_anything_train.runtime import UserError

SUITES = sorted(path.stem for path in (config_folder("evaluate") / "suite").glob("*.yaml"))
SIX = ["kitti", "nyu", "sintel", "ddad", "eth3d", "diode"]


@cache
def suite_config(name):
    return compose("evaluate", [f"suite={name}", "model=m", "data=d", "out=o"]).suite


@pytest.mark.parametrize("name", SUITES)
def test_every_suite__says_how_to_make_its_data_and_has_a_number_for_each_of_its_models(name):
    suite = read_suite(suite_config(name))
    assert suite.family == "paper" and suite.url.startswith("https://arxiv.org/abs/")
    for benchmark in suite.benchmarks.values():
        arguments = dict(argument.split("=") for argument in benchmark.protocol.prepare.split())
        dataset = OmegaConf.load(config_folder("prepare") / "dataset" / f"{arguments.pop('dataset')}.yaml")
        keys = {key.removeprefix("dataset.") for key in arguments}
        assert keys <= {*dataset, "root", "count", "samples_per_shard"} and arguments["root"] == "DIR"
        assert benchmark.protocol.url.startswith("http")
    for row in suite.rows.values():
        assert any(value is not None for values in row.values.values() for value in values)


def test_suite_table2__has_the_numbers_of_the_paper():
    suite = read_suite(suite_config("v1_table2"))
    assert list(suite.benchmarks) == SIX
    assert suite.rows["vitl"].values["nyu"] == [0.043, 0.981]
    assert suite.rows["midas"].values["diode"] == [0.075, 0.942]
    assert [name for name, one in suite.benchmarks.items() if not one.irreproducible] == ["kitti", "nyu"]


def test_suite_da2k__total_is_over_pairs_so_no_plain_mean_of_scenarios():
    total, *scenarios = read_suite(suite_config("da2k")).rows["vits"].values["da_2k"]
    shares = [0.20, 0.17, 0.15, 0.10, 0.16, 0.09, 0.06, 0.07]  # of the images, V2 appendix C
    assert sum(s * v for s, v in zip(shares, scenarios, strict=True)) == pytest.approx(total, abs=0.06)


def test_read_suite__refuses_to_mix_families_in_one_table():
    config = suite_config("v1_table2").copy()
    config.benchmarks.nyu.protocol = compose("evaluate", ["benchmark=moge/nyu", "model=m", "data=d", "out=o"]).benchmark
    with pytest.raises(UserError, match=r"two families never stand in one table.*moge.*paper"):
        read_suite(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": ["abs_rel"]}, "Expected 1 numbers for each of kitti"),
        ({"cells": ["abs_rel", "delta4"]}, "Expected cells out of .*, but got delta4"),
        ({"rows": {"x": {"title": "x", "values": {"tum": [1, 2]}}}}, "for tum"),
    ],
)
def test_read_suite__refuses_what_does_not_fit(change, message):
    with pytest.raises(UserError, match=message):
        read_suite(OmegaConf.merge(OmegaConf.to_container(suite_config("v1_table2")), change))


def test_cell__is_a_metric_of_the_mean_or_of_one_test_set():
    assert Cell.parse("accuracy@indoor") == Cell("accuracy", "indoor")
    assert Cell.parse("abs_rel").key("disparity") == "abs_rel_disparity" in METRICS
    assert Cell.parse("rmse").key("disparity") is None


def test_command__table2_on_miniatures_of_the_six_layouts_fills_the_table(tmp_path, prepare, evaluate, model, read):
    for name, arguments in write_benchmarks(tmp_path / "raw").items():
        prepare(*arguments, f"out={tmp_path / 'shards' / name}")
    evaluate("suite=v1_table2", f"model={model}", f"root={tmp_path / 'shards'}", f"out={tmp_path / 'out'}")

    table = read(tmp_path / "out" / "table.json")
    assert table["family"] == "paper" and len(table["cells"]) == 6 * 2 * 2
    for cell in table["cells"]:
        assert cell["ours"] is not None and cell["low"] <= cell["ours"] <= cell["high"]
        assert cell["difference"] == pytest.approx(cell["ours"] - cell["paper"])
        assert cell["paper_row"] == "vits" and bool(cell["irreproducible"]) == (cell["benchmark"] not in SIX[:2])
        results = read(tmp_path / "out" / "ours" / cell["benchmark"] / "results.json")
        key = cell["metric"] + ("_disparity" if cell["space"] == "disparity" else "")
        assert cell["ours"] == results["mean"][key] and cell["protocol_hash"] == results["protocol_hash"]
        assert cell["images"] == results["images"] >= 1
    with open(tmp_path / "out" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ours"]) for row in rows] == [cell["ours"] for cell in table["cells"]]
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| paper: V1-L | 0.076 | 0.947 |" in text
    assert f"| ours (in depth) | {table['cells'][0]['ours']:.3f} |" in text
    assert "Not on disk" not in text
    page = (tmp_path / "out" / "page.html").read_text()
    assert all(f'href="ours/{name}/page.html"' in page for name in SIX)


def test_command__what_is_missing_is_left_out_with_the_command_that_makes_it(tmp_path, evaluate, model, read, capsys):
    data = write_shards(tmp_path / "scenes", "labelled", counts=(3,))
    evaluate("suite=v2_table2", f"models={{a: {model}, b: {model}}}", f"data={{kitti: {data}}}", "page=false",
             f"out={tmp_path / 'out'}", "against=vitg")  # fmt: skip
    expected = "depth-anything prepare dataset=eth3d root=DIR samples_per_shard=10 out=shards/eth3d"
    assert expected in capsys.readouterr().err and expected in (tmp_path / "out" / "table.md").read_text()
    cells = read(tmp_path / "out" / "table.json")["cells"]
    assert {cell["model"] for cell in cells} == {"a", "b"} and {cell["paper_row"] for cell in cells} == {"vitg"}
    assert {cell["benchmark"] for cell in cells if cell["ours"] is not None} == {"kitti"}
    provenance = read(tmp_path / "out" / "a" / "kitti" / "results.json")
    assert provenance["model"]["hash"] == DepthAnything.from_pretrained(model).hash
    assert provenance["data"]["kitti"]["samples"] == len(ShardFolder(data)) == 3
    assert not (tmp_path / "out" / "a" / "kitti" / "page.html").exists()


def test_command__a_table_is_not_replaced_by_one_that_holds_less(tmp_path, evaluate, model, read, capsys):
    data = write_shards(tmp_path / "scenes", "labelled", counts=(2,))
    keys = ["suite=v1_table2", "page=false", f"out={tmp_path / 'out'}"]
    both = f"data={{kitti: {data}, nyu: {data}}}"
    evaluate(*keys, f"models={{a: {model}}}", f"data={{kitti: {data}}}")
    evaluate(*keys, f"models={{a: {model}, b: {model}}}", both)
    table = (tmp_path / "out" / "table.json").read_bytes()
    for fewer in ([f"models={{b: {model}}}", both], [f"models={{a: {model}, b: {model}}}", f"data={{nyu: {data}}}"]):
        with pytest.raises(SystemExit):
            evaluate(*keys, *fewer)
        assert "holds a on kitti, which this table would not; name all" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "out" / "table.json").read_bytes() == table


def test_command__a_model_named_by_dots_has_the_name_of_its_folder(tmp_path, evaluate, model, read, monkeypatch):
    data = write_shards(tmp_path / "scenes", "labelled", counts=(2,))
    monkeypatch.chdir(model)
    evaluate("suite=v1_table2", "model=.", f"data={{kitti: {data}}}", "page=false", f"out={tmp_path / 'out'}")
    assert {cell["model"] for cell in read(tmp_path / "out" / "table.json")["cells"]} == {"ours"}
    assert (tmp_path / "out" / "ours" / "kitti" / "results.json").exists()


def test_command__da2k_by_scenario_and_over_all_pairs(tmp_path, prepare, evaluate, model, read):
    prepare(
        "dataset=da_2k",
        f"root={writers('da_2k').write_da_2k(tmp_path / 'raw')}",
        f"out={tmp_path / 'shards' / 'da_2k'}",
    )
    evaluate("suite=da2k", f"model={model}", f"root={tmp_path / 'shards'}", f"out={tmp_path / 'out'}")
    results = read(tmp_path / "out" / "ours" / "da_2k" / "results.json")

    predictor = DepthAnything.from_pretrained(model)
    right = {"indoor": [], "non_real": []}
    for record in ShardFolder(tmp_path / "shards" / "da_2k"):
        disparity = predictor.predict(record.image).disparity
        for pair in record.meta["pairs"]:
            right[record.meta["scenario"]].append(disparity[tuple(pair["nearer"])] > disparity[tuple(pair["farther"])])
    assert {name: group["accuracy"] for name, group in results["groups"].items()} == {
        name: pytest.approx(100 * sum(answers) / len(answers)) for name, answers in right.items()
    }
    pooled = [answer for answers in right.values() for answer in answers]
    assert len(pooled) == 4 and results["mean"]["accuracy"] == pytest.approx(100 * sum(pooled) / 4)
    cells = {cell["group"]: cell["ours"] for cell in read(tmp_path / "out" / "table.json")["cells"]}
    assert cells[None] == results["mean"]["accuracy"] and cells["indoor"] == results["groups"]["indoor"]["accuracy"]
    assert cells["aerial"] is None


@pytest.mark.parametrize(
    ("data", "root", "message"),
    [
        (None, None, 'Expected data="{NAME: DIR, ...}" with names out of kitti, nyu'),
        ("shards", None, 'Expected data="{NAME: DIR, ...}"'),
        ({"tum": "shards"}, None, "data names tum"),
        (None, "{folder}", r"(?s)Nothing of the suite is in .*prepare dataset=kitti root=DIR .*out=.*kitti"),
    ],
)
def test_find_data__says_what_it_expects(data, root, message, tmp_path):
    suite = read_suite(suite_config("v1_table2"))
    with pytest.raises(UserError, match=message):
        find_data(suite, data, root and str(tmp_path))


def test_find_data__takes_named_folders_before_those_of_the_root(tmp_path):
    for name in ("nyu", "kitti", "other"):
        (tmp_path / name).mkdir()
    found = find_data(read_suite(suite_config("v1_table2")), {"kitti": "elsewhere"}, str(tmp_path))
    assert found == {"kitti": "elsewhere", "nyu": str(tmp_path / "nyu")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "???", "models": None}, "Expected either model=... or models="),
        ({"model": "m", "models": {"a": "m"}}, "Expected either model=... or models="),
        ({"model": "???", "models": ["m"]}, 'Expected models="{NAME'),
        ({"model": "???", "models": {"a/b": "m"}}, "names of models that can be folders"),
        ({"model": "???", "models": {"..": "m"}}, "names of models that can be folders, but got '..'"),
        ({"model": "???", "models": {"": "m"}}, "names of models that can be folders, but got ''"),
    ],
)
def test_named_models__refuses_what_names_no_models(given, message):
    with pytest.raises(UserError, match=message):
        named_models(OmegaConf.create(given))


def test_row_for__is_that_of_the_encoder_or_the_one_named():
    suite = read_suite(suite_config("v2_table2"))
    assert suite.row_for("vitb", None) is suite.rows["vitb"] and suite.row_for("tiny", None) is None
    assert suite.row_for("vitb", "v1_vitb").values["nyu"] == [0.046, 0.979]
    with pytest.raises(UserError, match="Expected against to be one of midas, v1_vits"):
        suite.row_for("vitb", "vith")


def test_command__mistakes_end_in_one_sentence(tmp_path, evaluate, model, labelled_shards, capsys):
    data = f"data={{kitti: {labelled_shards}}}"
    for arguments, message in (
        (["suite=v1_table4", data], "judges metres, which the relative model ours does not predict"),
        (["suite=da2k", f"data={{da_2k: {labelled_shards}}}"], "Expected images shards for da_2k, but got shards of"),
        (["suite=da2k", data, "suite.benchmarks.da_2k.protocol.flip=true"], "protocols as they are published"),
        ([f"data={labelled_shards}", "against=vits"], "against belongs to a suite"),
    ):
        with pytest.raises(SystemExit) as stop:
            evaluate(f"model={model}", f"out={tmp_path / 'out'}", *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_command__what_does_not_fit_is_refused_before_anything_is_judged(tmp_path, evaluate, model, metric, capsys):
    good, photographs = (write_shards(tmp_path / kind, kind, counts=(2,)) for kind in ("labelled", "images"))
    both = f"models={{ours: {model}, theirs: {metric}}}"
    for arguments, message in (
        ([both, f"data={{kitti: {good}}}"], "hides whether the metres of the metric model theirs are right"),
        ([f"model={model}", f"data={{kitti: {good}, diode: {photographs}}}"], "Expected labelled shards for diode"),
    ):
        with pytest.raises(SystemExit):
            evaluate("suite=v1_table2", f"out={tmp_path / 'out'}", *arguments)
        assert message in capsys.readouterr().err
        assert not [*(tmp_path / "out").rglob("*")]


def test_command__a_set_of_which_nothing_can_be_judged_leaves_the_others_their_table(
    tmp_path, evaluate, metric, read, capsys
):
    data = write_shards(tmp_path / "small", "labelled", counts=(2,))  # smaller than KITTI's window
    with pytest.raises(SystemExit, match="2"):
        evaluate(
            "suite=v1_table5", f"model={metric}", f"data={{vkitti2: {data}, ibims: {data}}}", f"out={tmp_path / 'out'}"
        )
    why = "none of vkitti2 could be used (2 x image_size)"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{why}.")
    assert why in (tmp_path / "out" / "table.md").read_text()
    cells = read(tmp_path / "out" / "table.json")["cells"]
    assert {cell["benchmark"] for cell in cells if cell["ours"] is not None} == {"ibims"}
