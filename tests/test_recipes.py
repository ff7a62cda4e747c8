"""Every recipe and every ablation trains: two steps with the smallest model, on real shards and real pseudo labels."""

import pytest
from omegaconf import OmegaConf
from scenes import write_shards
from stub_teacher import StubTeacher

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from depth_anything_train.composition import compose, config_folder
from depth_anything_train.run_folder import read_metrics, run_key
from depth_anything_train.train import train

TINY = ("model=test", "trainer=cpu", "steps=2", "size=28", "encoder=none", "precision=32-true", "workers=0",
        "log_every_n_steps=1", "preview.every_n_steps=0", "compile=false")  # fmt: skip

# What each ablation changes. A new file must be added here: it is a claim of a paper.
ABLATIONS = {
    "naive": "v1_student_vitl",
    "no_feature_alignment": "v1_student_vits",
    "feature_on_labelled": "v1_student_vits",
    "margin_1.00": "v1_student_vits",
    "margin_0.70": "v1_student_vits",
    "gradient_0.5": "v2_student_vits",
    "gradient_4.0": "v2_teacher_vitg",
    "last_blocks": "v2_student_vits",
}


def files(group):
    return sorted(path.stem for path in (config_folder("train") / group).glob("[!_]*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Keys of `train` that name labelled scenes and pseudo labels of others."""
    folder = tmp_path_factory.mktemp("data")
    labelled = write_shards(folder / "labelled", "labelled")
    images = write_shards(folder / "images", "images", first=100)
    label(ShardLabeller(StubTeacher(), LabelSettings(size=28)), images, folder / "labels", engine=LocalEngine())
    return [f"labelled=[{labelled}]", f"unlabelled=[{folder / 'labels'}]"]


@pytest.fixture(scope="module")
def recipes(data):
    """Every experiment by name, shrunk."""
    return {name: shrunk(name, *data) for name in files("experiment")}


def shrunk(experiment, *overrides):
    """Its config with everything that makes it large taken down; the losses and what they see stay."""
    cfg = compose("train", [f"experiment={experiment}", *overrides, *TINY, "out=run"])
    cfg.data.batch = dict.fromkeys(cfg.data.sources, 2)
    if "warmup_steps" in cfg.optim:
        cfg.optim.warmup_steps = 0
    return cfg


def losses_of_two_steps(cfg, out):
    """The names of the losses that were logged, all of them finite."""
    train(OmegaConf.merge(cfg, {"out": str(out), "name": "recipe"}))
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    names = [name for name in rows[-1] if name.startswith("train/loss/") and name.count("/") == 2]
    losses = {name.removeprefix("train/loss/"): rows[-1][name] for name in names}
    assert losses and all(0 <= value < 100 for value in losses.values()), losses
    return set(losses)


def test_every_experiment__takes_two_steps(recipes, tmp_path):
    """Recipes that only differ in the size of the model are one here; other tasks have tests of their own."""
    seen = {}
    for name, cfg in recipes.items():
        assert OmegaConf.to_container(cfg, resolve=True)["name"] == name
        key = run_key(OmegaConf.merge(cfg, {"name": "recipe"}))
        if cfg.task._target_.endswith(("TeacherTask", "StudentTask")) and key not in seen.values():
            seen[name] = key
            assert losses_of_two_steps(cfg, tmp_path / name) <= set(cfg.task.weights)
    assert {"v1_teacher_vitb", "v1_student_vitb", "v2_mix_vitb", "v2_student_vitb", "v2_synth_vitb"} <= seen.keys()


def test_every_ablation__changes_its_parent_and_takes_two_steps(data, recipes, tmp_path):
    assert sorted(ABLATIONS) == files("ablation")
    for name, experiment in ABLATIONS.items():
        cfg = shrunk(experiment, f"ablation={name}", *data)
        if name != "last_blocks":  # the smallest model has no others
            assert run_key(cfg) != run_key(recipes[experiment])
        losses = losses_of_two_steps(cfg, tmp_path / name)
        assert ("feature" in losses) == ("feature" in cfg.task.weights and cfg.task.feature is not None)


def test_v1_teacher__has_the_stated_numbers():
    cfg = compose("train", ["experiment=v1_teacher_vitl", "out=run"])
    assert (cfg.optim.encoder_lr, cfg.optim.decoder_lr) == (5e-6, 5e-5)
    assert (cfg.size, cfg.model.taps) == (518, "last4")
    assert list(cfg.task.weights) == ["labelled"]


def test_v1_student__has_the_stated_numbers():
    cfg = compose("train", ["experiment=v1_student_vits", "out=run"])
    assert cfg.data.batch.unlabelled == 2 * cfg.data.batch.labelled
    assert set(cfg.task.weights.values()) == {1 / 3}
    assert (cfg.task.feature.margin, cfg.task.feature_on) == (0.85, "unlabelled")
    assert cfg.task.pseudo.trim == 0.1


def test_metric__validation_cuts_images_as_training_does(recipes):
    """Else KITTI's 375 x 1242 would be stretched where 352 x 1216 was trained on, and the best chosen by it."""
    for name, cfg in recipes.items():
        if cfg.task._target_.endswith(".MetricTask"):
            assert cfg.validate.protocol.input_crop == cfg.data.sources.labelled.crop, name


def test_metric__validation_judges_as_far_as_training_learns():
    """Else the best model of another range would be chosen by its near pixels alone."""
    for name in (name for name in files("experiment") if "metric" in name):
        cfg = compose("train", [f"experiment={name}", "model.max_depth_m=33.0", "out=run"])
        if cfg.task._target_.endswith(".MetricTask"):
            assert cfg.validate.protocol.cap_m == cfg.data.sources.labelled.max_depth_m == 33.0, name
    assert compose("train", ["experiment=v1_teacher_vits", "out=run"]).validate.protocol.cap_m is None


@pytest.mark.parametrize(
    "name, steps, batch", [("teacher_vitg", 160_000, {"labelled": 64}), ("student_vits", 480_000, {"unlabelled": 192})]
)
def test_v2__has_the_stated_numbers(name, steps, batch):
    cfg = compose("train", [f"experiment=v2_{name}", "out=run"])
    assert (cfg.steps, cfg.data.batch, list(cfg.data.sources)) == (steps, batch, list(batch))
    assert (cfg.optim.encoder_lr, cfg.optim.decoder_lr, cfg.model.taps) == (5e-6, 5e-5, "spread")
    assert all(value == (2.0 if loss.endswith("_gradient") else 1.0) for loss, value in cfg.task.weights.items())
    assert cfg.task.get("pseudo", {"trim": 0.1})["trim"] == 0.1
    assert OmegaConf.select(cfg, "task.labelled") is not None or name == "student_vits"
