import hydra
import pytest
from omegaconf import OmegaConf

from depth_anything_train.ablate.table import read_table
from depth_anything_train.composition import config_folder
from depth_anything_train.runtime import UserError


def files(command, group):
    return sorted(path.stem for path in (config_folder(command) / group).glob("[!_]*.yaml"))


def table(*rows, **content):
    return OmegaConf.create({"title": "t", "benchmarks": ["kitti", "nyu"], "rows": list(rows), **content})


def test_read_table__a_row_takes_from_the_table_what_it_does_not_say():
    own = {"label": "own", "experiment": "e", "labelled": ["x"], "delta1": [0.9, 0.8]}
    read = read_table(
        "t", table({"label": "plain", "experiment": "e", "abs_rel": [0.1, 0.2]}, own, labelled=["a", "b"])
    )
    plain, own = read.rows
    assert (plain.labelled, own.labelled) == (("a", "b"), ("x",))
    assert plain.paper == {"abs_rel": {"kitti": 0.1, "nyu": 0.2}}
    assert own.paper == {"delta1": {"kitti": 0.9, "nyu": 0.8}}
    assert read.metrics == ("abs_rel", "delta1")


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"label": "a", "experiment": "e", "abs_rel": [0.1]}], "Expected 2 values of AbsRel for a"),
        ([{"label": "a"}], "Expected label and experiment"),
        ([{"label": "a", "experiment": "e"}, {"label": "a", "experiment": "f"}], "two have the same"),
    ],
)
def test_read_table__mistakes_are_named(rows, message):
    with pytest.raises(UserError, match=message):
        read_table("t", table(*rows))


def shipped(name):
    """A table of the program; its trainings are tried in test_recipes.py."""
    with hydra.initialize_config_dir(str(config_folder("ablate")), version_base="1.3"):
        return read_table(name, hydra.compose("ablate", [f"table={name}", "out=o"]).table)


@pytest.mark.parametrize("name", files("ablate", "table"))
def test_every_table__names_trainings_that_there_are(name):
    for row in shipped(name).rows:
        assert row.paper, "a row without a number of the paper says nothing"
        assert row.reason if row.experiment is None else row.experiment in files("train", "experiment")
        assert row.ablation is None or row.ablation in files("train", "ablation")


def test_v1_means__are_those_that_the_paper_prints():
    """Tables 6, 12 and 13 print means, which are in no config: a slip of the pen in a number would show."""
    printed = {
        "v1_table6": [0.210, 0.226, 0.200, 0.215, 0.274, 0.222, 0.180],
        "v1_table12": [0.188, 0.175, 0.178],
        "v1_table13": [0.180, 0.175, 0.179],
    }
    for name, expected in printed.items():
        means = [sum(row.paper["abs_rel"].values()) / 6 for row in shipped(name).rows]
        assert means == [pytest.approx(mean, abs=0.0006) for mean in expected]
