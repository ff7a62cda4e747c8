import pytest
from networks import build

from depth_anything_train.app.models import Models, find_models
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("a", "b", "c")):
        DepthAnything(build(seed), size=28, device="cpu").save_pretrained(folder / name / "model")
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "metrics.jsonl").touch()
    (folder / "released.pth").touch()
    return folder


def test_find_models__takes_a_model_a_list_or_a_folder_of_runs(runs):
    assert find_models(str(runs / "a")) == {"a": str(runs / "a")}
    assert find_models([str(runs / "b"), "owner/name"]) == {"b": str(runs / "b"), "name": "owner/name"}
    assert list(find_models(str(runs))) == ["a", "b", "c", "released.pth"]


def test_find_models__two_of_one_name_are_told_apart(runs, tmp_path):
    sources = [str(runs / "a"), str(tmp_path / "a"), str(runs / "b")]
    assert find_models(sources) == {sources[0]: sources[0], sources[1]: sources[1], "b": sources[2]}


def test_find_models__a_relative_path_that_is_another_ones_name_loses_nothing(runs, monkeypatch):
    monkeypatch.chdir(runs)
    assert set(find_models(["../somewhere/a", "a"]).values()) == {"../somewhere/a", "a"}


def test_find_models__needs_one():
    with pytest.raises(UserError, match="name it with model="):
        find_models([])


def test_models__are_loaded_once_and_the_oldest_goes(runs):
    models = Models(find_models(str(runs)), device="cpu", kept=2)
    assert models.names[0] == "a"
    first, second = models["a"], models["b"]
    assert models["a"] is first and models["b"] is second
    _ = models["c"]
    assert models["b"] is second and models["a"] is not first
    assert models["a"].hash == first.hash


def test_models__a_model_that_cannot_be_loaded_says_why(runs):
    models = Models(find_models(str(runs / "unfinished")), device="cpu")
    with pytest.raises(UserError, match="without a finished model"):
        _ = models["unfinished"]
