import statistics
from pathlib import Path

import pytest

from depth_anything_train.ablate.jobs import Job
from depth_anything_train.ablate.outcome import Figure, cell, gather
from depth_anything_train.ablate.plan import Column, Plan
from depth_anything_train.ablate.table import Row, Table
from depth_anything_train.ablate.write import to_csv, write
from depth_anything_train.files import read_json, write_json
from depth_anything_train.runtime import UserError

VALUES = {("first", 0): 0.20, ("first", 1): 0.24, ("second", 0): 0.18, ("second", 1): 0.18}


def row(label, paper):
    return Row(label, "e", None, (), (), {"abs_rel": paper} if paper else {})


def evaluated(folder: Path, near: float) -> Job:
    """An evaluation of three test sets, as `evaluate` writes it."""
    groups = {"a-night": near, "b-night": near + 0.02, "a-day": near / 2}
    rows = {name: {"images": 5, "abs_rel": value, "abs_rel_disparity": 2 * value} for name, value in groups.items()}
    mean = {"abs_rel": sum(groups.values()) / 3, "abs_rel_disparity": 2 * sum(groups.values()) / 3}
    write_json(folder / "results.json", {"groups": rows, "mean": mean, "caption": "protocol p", "model": {"hash": "h"}})
    return Job("evaluate", (), folder)


@pytest.fixture
def outcome(tmp_path):
    rows = (row("first", {"kitti": 0.10, "nyu": 0.30}), row("second", {"kitti": 0.10, "nyu": 0.20}))
    table = Table("t", "a table", None, (), rows, ("abs_rel",))
    night = Column("night", "night", {}, ["*-night"])
    plan = Plan([night, Column("day", "day", {}, ["*-day"], in_mean=False)])
    for (label, seed), value in VALUES.items():
        job = evaluated(tmp_path / f"{label}-{seed}", value)
        plan.cells[label, seed] = {"night": job, "day": job}
    return gather(table, plan, [0, 1])


def test_figure__spread_is_the_sample_standard_deviation_and_unknown_of_one_seed():
    assert Figure({0: 1.0, 1: 2.0, 5: 4.0}).spread == statistics.stdev([1.0, 2.0, 4.0])
    assert Figure({0: 1.0}).spread is None


def test_gather__a_cell_is_the_mean_over_its_sets_and_the_mean_is_of_columns_that_count(outcome):
    first, second = outcome.lines["abs_rel"]
    assert first.cells["night"].by_seed == {0: pytest.approx(0.21), 1: pytest.approx(0.25)}
    assert first.cells["day"].by_seed == {0: 0.10, 1: 0.12}
    assert first.mean.by_seed == first.cells["night"].by_seed
    assert outcome.lines["abs_rel_disparity"][1].mean.mean == pytest.approx(2 * second.mean.mean)


def test_gather__changes_are_paired_by_seed(outcome):
    first, second = outcome.lines["abs_rel"]
    assert first.change is None and first.paper_change is None
    assert second.change.by_seed == {0: pytest.approx(0.19 / 0.21 - 1), 1: pytest.approx(0.19 / 0.25 - 1)}
    assert second.paper_change == pytest.approx(0.15 / 0.20 - 1)


def test_gather__what_is_not_evaluated_yet_stays_empty(outcome, tmp_path):
    (tmp_path / "second-1" / "results.json").unlink()
    again = gather(outcome.table, outcome.plan, [0, 1])
    assert list(again.lines["abs_rel"][1].mean.by_seed) == [0]
    (tmp_path / "second-0" / "results.json").unlink()
    assert gather(outcome.table, outcome.plan, [0, 1]).lines["abs_rel"][1].mean is None


def test_gather__results_that_lack_a_number_are_named_with_its_key(outcome, tmp_path):
    file = tmp_path / "second-1" / "results.json"
    content = read_json(file)
    del content["groups"]["b-night"]["abs_rel_disparity"]  # as an older version wrote it
    write_json(file, content)
    with pytest.raises(UserError, match=f"the key abs_rel_disparity in {file}"):
        gather(outcome.table, outcome.plan, [0, 1])


def test_cell__sets_that_were_not_evaluated_are_named():
    with pytest.raises(UserError, match="Column c names x-"):
        cell({"groups": {"a": {}}}, Column("c", "c", {}, ["x-*"]), "abs_rel")


def test_write__the_files_hold_the_same_numbers(outcome, tmp_path):
    path = write(outcome, tmp_path / "tables")
    text = path.read_text()
    assert "| second | 0.190 ± 0.000 | 0.090 ± 0.000 | 0.190 ± 0.000 | -16.8 ± 10.2 % |" in text
    assert "| *paper* |  |  | 0.150 | -25.0 % |" in text
    content = read_json(path.with_suffix(".json"))
    figure = content["rows"][0]["metrics"]["abs_rel"]["mean"]
    assert figure["mean"] == pytest.approx(0.23) and figure["seeds"]["1"] == pytest.approx(0.25)
    lines = to_csv(outcome).splitlines()
    assert f"first,abs_rel,mean,1,{figure['seeds']['1']}" in lines
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
