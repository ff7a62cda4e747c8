"""Every config composes; files are found by glob, so that a new one is tested unasked."""

import pytest
from omegaconf import OmegaConf

from depth_anything_train.building import build
from depth_anything_train.composition import choices_in, compose, config_folder
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.pairs import PairProtocol
from depth_anything_train.pipeline import plan


def choices(command, group):
    return choices_in(config_folder(command) / group)


@pytest.mark.parametrize("name", choices("train", "model"))
def test_every_model_can_be_built_without_disk_or_network(name):
    import torch

    cfg = compose("train", ["experiment=tiny_teacher", f"model={name}", "out=run"])
    with torch.device("meta"):
        model = build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1000


def test_naive_student__sees_its_images_as_they_are():
    cfg = compose("train", ["experiment=v1_student_vits", "ablation=naive", "unlabelled=[u]", "steps=1", "out=run"])
    assert cfg.data.keys().isdisjoint({"perturbation", "cutmix"})


@pytest.mark.parametrize("name", choices("prepare", "dataset"))
def test_every_dataset_composes(name):
    cfg = compose("prepare", [f"dataset={name}", "root=r", "out=o", "count=4"])
    assert cfg.dataset._target_.startswith("data_engine.ingest.")


@pytest.mark.parametrize("name", choices("evaluate", "benchmark"))
def test_every_benchmark_composes(name):
    cfg = compose("evaluate", [f"benchmark={name}", "model=m", "data=d", "out=o"])
    protocol = build(cfg.benchmark)
    assert type(protocol) in (DepthProtocol, PairProtocol)
    assert protocol.name == name, "a table that quotes the name must lead to the file"
    assert protocol.family == (name.split("/")[0] if "/" in name else "own")


@pytest.mark.parametrize("name", choices("train", "logger"))
def test_every_logger_composes(name):
    cfg = compose("train", ["experiment=tiny_teacher", f"logger=[{name}]", "out=run"])
    nodes = list((cfg.get("logger") or {}).values())
    assert all(node._target_.startswith("depth_anything_train.callbacks.") for node in nodes)
    assert len(nodes) == (name != "files")


@pytest.mark.parametrize("name", choices("run", "pipeline"))
def test_every_stage_of_every_pipeline_composes(name):
    """A typo in the last stage must not show after an hour."""
    own = ["pairs=p", "photos=q"] if name == "folders" else []
    stages = plan(compose("run", [f"pipeline={name}", "out=o", *own]))
    assert len(stages) > 3
    for stage in stages:
        command, *overrides = stage.arguments
        assert OmegaConf.to_container(compose(command, list(overrides)), resolve=True)
