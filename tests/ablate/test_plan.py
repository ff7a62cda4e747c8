import hydra
import pytest
from omegaconf import OmegaConf

from depth_anything_train.ablate.plan import make_plan
from depth_anything_train.ablate.table import read_table
from depth_anything_train.composition import config_folder
from depth_anything_train.runtime import UserError

SIX = ("blendedmvs", "diml", "hrwsi", "irs", "megadepth", "tartanair")
EIGHT = ("bdd100k", "google_landmarks", "imagenet21k", "lsun", "objects365", "open_images", "places365", "sa1b")


def named(key, names):
    return f"{key}={{{','.join(f'{name}: /data/{name}' for name in names)}}}"


def plan(name, *overrides, rows=None):
    with hydra.initialize_config_dir(str(config_folder("ablate")), version_base="1.3"):
        cfg = hydra.compose("ablate", [f"table={name}", "out=out", *overrides])
    OmegaConf.resolve(cfg)
    cfg.table.rows = cfg.table.rows[:rows]
    return make_plan(read_table(name, cfg.table), cfg)


def paper(name, *overrides, rows=None):
    data = [named("labelled", SIX), named("unlabelled", EIGHT), "benchmarks={kitti: /data/kitti, nyu: /data/nyu}"]
    return plan(name, "scale=paper", *data, *overrides, rows=rows)


def commands(plan):
    return [job.command for job in plan.jobs.values()]


def test_world__each_seed_has_one_teacher_whose_labels_its_rows_share():
    made = plan("v1_table9", "seeds=[0,1]")
    assert commands(made) == ["prepare"] * 3 + 2 * (
        ["train", "evaluate"] + ["label", "train", "evaluate"] + 2 * ["train", "evaluate"]
    )
    jobs = list(made.jobs.values())
    for job in jobs:
        assert all(jobs.index(needed) < jobs.index(job) for needed in job.needs)
    students = [job for job in jobs if job.command == "train" and "experiment=world_student" in job.overrides]
    assert len({job.needs for job in students}) == 2, "the students of a seed read the same labels"


def test_world__equal_rows_of_several_tables_are_one_run():
    runs = [
        {job.name for job in plan(name, "seeds=[0]").jobs.values() if job.command == "train"}
        for name in ("v1_table9", "v1_table12", "v1_table13")
    ]
    nine, twelve, thirteen = runs
    assert (len(nine), len(twelve), len(thirteen)) == (4, 4, 4)
    assert len(nine & twelve) == 2, "teacher and recipe"
    assert len(nine & thirteen) == 3, "teacher, recipe and the row without feature alignment"


def test_world__tables_without_a_counterpart_there_are_refused():
    with pytest.raises(UserError, match="table=v2_table5 needs v2_synth_vits, for which this scale has none"):
        plan("v2_table5", "seeds=[0]")
    with pytest.raises(UserError, match="'BlendedMVS' and 'DIML' are the same training here"):
        plan("v1_table6", "seeds=[0]")


def test_plan__what_changes_a_number_changes_the_folder_and_what_does_not_leaves_it():
    def runs(*overrides):
        jobs = plan("v1_table9", "seeds=[3]", *overrides, rows=2).jobs
        return [name for name, job in jobs.items() if job.command == "train"]

    before = runs()
    assert runs("train={log_every_n_steps: 3, checkpoint.keep: 9}") == before
    assert not set(runs("train={steps: 5}")) & set(before)
    assert not set(runs("scale.prepare.labelled.count=9")) & set(before)
    other_images = runs("scale.prepare.unlabelled.count=9")
    assert other_images[0] == before[0], "the teacher does not see them"
    assert not set(other_images[1:]) & set(before)


def test_paper__rows_train_on_the_named_folders():
    made = paper("v1_table9", rows=2)
    assert commands(made).count("label") == 8
    teacher, student = [job for job in made.jobs.values() if job.command == "train"][:2]
    assert f"labelled=[{','.join(f'/data/{name}' for name in SIX)}]" in teacher.overrides
    assert {"experiment=v1_student_vitl", "ablation=naive"} <= set(student.overrides)
    assert [column.name for column in made.columns] == ["kitti", "nyu"]


def test_paper__a_set_that_is_not_named_is_asked_for():
    with pytest.raises(UserError, match=r"labelled sets blendedmvs, diml.*without=\[blendedmvs,diml"):
        plan("v1_table9", "scale=paper", "benchmarks={nyu: /data/nyu}")
    with pytest.raises(UserError, match="add benchmarks="):
        plan("v1_table9", "scale=paper")
    with pytest.raises(UserError, match="Expected benchmarks among kitti.*got madeup"):
        plan("v1_table9", "scale=paper", "benchmarks={madeup: /x}")
    with pytest.raises(UserError, match="Expected labelled={NAME: FOLDER"):
        plan("v1_table9", "scale=paper", "labelled=[a]")


def test_paper__sets_that_are_not_at_hand_can_be_done_without():
    made = paper("v1_table9", "without=[diml,sa1b]", rows=2)
    assert commands(made).count("label") == 7
    teacher = next(job for job in made.jobs.values() if job.command == "train")
    assert not any("diml" in override for override in teacher.overrides)
    single = paper("v1_table6", "without=[diml]")
    assert single.reasons == {"DIML": "without diml"}
    assert len({label for label, _ in single.cells}) == 6


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("label={sise: 2}", "sise is no key of `label`; did you mean size"),
        ("evaluate={bach_size: 2}", "bach_size is no key of `evaluate`; did you mean batch_size"),
        ("train={stepps: 2}", "stepps is no key of `train`; did you mean steps"),
        ("without=[foo]", "Expected sets of table=v1_table9 in without, .*blendedmvs.*, but got foo"),
    ],
)
def test_plan__mistakes_of_late_jobs_are_met_before_the_first(typed, said):
    for made in (plan, paper):
        with pytest.raises(UserError, match=said):
            made("v1_table9", "seeds=[0]", typed)


def test_paper__rows_that_cannot_be_trained_here_say_why():
    five = ("blendedmvs", "hypersim", "irs", "tartanair", "vkitti2")
    made = plan("v2_table13", "scale=paper", named("labelled", five), "benchmarks={kitti: /data/kitti}")
    assert {label for label, _ in made.cells} == {"DINOv2-L", "DINOv2-G"}
    assert made.reasons["BEiT-L"] == "this project has DINOv2 encoders alone"
