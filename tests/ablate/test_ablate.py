"""From empty folders to a table, with the real commands at the smallest size."""

import pytest
from omegaconf import OmegaConf
from scenes import write_shards

from data_engine.label import main as label
from depth_anything_train.ablate import ablate
from depth_anything_train.ablate.jobs import Job
from depth_anything_train.ablate.local import Local
from depth_anything_train.ablate.plan import make_plan
from depth_anything_train.ablate.table import read_table
from depth_anything_train.composition import compose
from depth_anything_train.evaluate import main as evaluate
from depth_anything_train.files import read_json
from depth_anything_train.runtime import UserError
from depth_anything_train.train import main as train

LABELLED = ("irs", "blendedmvs", "diml", "hrwsi", "megadepth", "tartanair")
UNLABELLED = ("sa1b", "bdd100k", "google_landmarks", "imagenet21k", "lsun", "objects365", "open_images", "places365")
COMMANDS = {"train": train, "label": label, "evaluate": evaluate}
TINY = (
    "train={model: test, trainer: cpu, steps: 2, size: 28, encoder: none, precision: 32-true, workers: 0, "
    "compile: false, preview.every_n_steps: 0}"
)


@pytest.fixture
def config(tmp_path):
    """The first two rows of V1 table 9 on scenes, two sets of six at hand."""
    sets = {name: write_shards(tmp_path / name, "labelled", first=first) for name, first in (("irs", 0), ("nyu", 90))}
    images = write_shards(tmp_path / "sa1b", "images", first=40)
    absent = [*LABELLED[1:], *UNLABELLED[1:]]
    cfg = compose(
        "ablate",
        [
            "table=v1_table9",
            "scale=paper",
            f"out={tmp_path / 'out'}",
            TINY,
            "label={device: cpu}",
            f"without=[{','.join(absent)}]",
        ]
        + [f"labelled={{irs: {sets['irs']}}}", f"unlabelled={{sa1b: {images}}}", f"benchmarks={{nyu: {sets['nyu']}}}"],
    )
    OmegaConf.resolve(cfg)
    cfg.table.rows = cfg.table.rows[:2]
    return cfg


def test_ablate__from_shards_to_the_table(config, monkeypatch):
    """Jobs run in this process, which a launcher would start one by one; then `ablate` finds them finished."""
    plan = make_plan(read_table("v1_table9", config.table), config)
    for job in plan.jobs.values():
        assert not job.finished()
        monkeypatch.setattr("sys.argv", ["depth-anything", *job.arguments])
        COMMANDS[job.command]()
        assert job.finished()
    text = ablate(config, name="v1_table9").read_text()
    assert "Trained without blendedmvs, diml, hrwsi" in text
    assert "| labelled images | " in text and "| *paper* | 0.053 | 0.053 |  |" in text
    content = read_json(ablate(config, name="v1_table9").with_suffix(".json"))
    results = read_json(next(iter(plan.cells["+ pseudo labels", 0].values())).out / "results.json")
    figure = content["rows"][1]["metrics"]["abs_rel"]["columns"]["nyu"]
    assert figure == {"mean": results["mean"]["abs_rel"], "spread": None, "seeds": {"0": results["mean"]["abs_rel"]}}
    assert content["rows"][1]["models"] == {"0": results["model"]["hash"]}


def test_local__runs_what_is_not_finished_and_names_what_failed(tmp_path, capsys):
    scenes = write_shards(tmp_path / "scenes", "labelled")
    keys = ("experiment=tiny_teacher", "steps=1", f"labelled=[{scenes}]")
    good = Job("train", keys, tmp_path / "runs" / "good")
    bad = Job("train", ("experiment=tiny_teacher", f"labelled=[{tmp_path / 'none'}]"), tmp_path / "runs" / "bad")
    with pytest.raises(UserError, match="train-bad ended with status 2.*depth-anything train"):
        Local().run([good, bad], tmp_path, [])
    assert good.finished() and not bad.finished()
    capsys.readouterr()
    Local().run([good], tmp_path, [])
    assert "(1/1) train-good: finished before" in capsys.readouterr().err


def test_ablate__a_folder_that_is_not_there_is_missed_before_the_first_job(config):
    OmegaConf.set_struct(config, False)
    config.benchmarks.nyu = config.labelled.diml = "nowhere"  # but diml is left out
    with pytest.raises(UserError, match="Expected the set nyu in the folder nowhere, but there is none"):
        ablate(config, name="v1_table9")


def test_ablate__seeds_that_make_no_table_are_refused(config):
    for seeds in ([], [1, 1]):
        config.seeds = seeds
        with pytest.raises(UserError, match="one seed or several different ones"):
            ablate(config, name="v1_table9")
