"""What holds for every raw data set; they are found by their configs, so that a new one is tested unasked."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from data_engine.ingest.base import Ingest
from data_engine.ingest.labelled import LabelledSet
from depth_anything_train.building import build
from depth_anything_train.composition import compose, config_folder
from depth_anything_train.data.schema import IMAGES, LABELLED, SEGMENTED
from depth_anything_train.runtime import UserError

STAGES = {"sky"}
"""They start from shards, which say what they hold, and cannot tell before they are there: `test_sky.py`."""

FILES = {path.stem: path for path in sorted((config_folder("prepare") / "dataset").glob("*.yaml"))}
NAMES = [name for name in FILES if name not in STAGES]
# By their files alone: every process that tests collects them, and composing takes seconds.
TARGETS = {name: OmegaConf.load(FILES[name]).get("_target_") for name in NAMES}
LABELLED_SETS = [name for name, target in TARGETS.items() if target and issubclass(get_class(target), LabelledSet)]


@cache
def config(name: str) -> DictConfig:
    return compose("prepare", [f"dataset={name}", "root=nowhere", "out=o", "count=2"]).dataset


@cache
def configured(name: str) -> Ingest:
    return build(config(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset__is_built_from_its_config_and_reaches_the_workers(name: str) -> None:
    ingest = configured(name)
    assert isinstance(ingest, LabelledSet) == (name in LABELLED_SETS)
    assert ingest.kind in (LABELLED, IMAGES, SEGMENTED) and ingest.source
    assert pickle.loads(pickle.dumps(ingest)).info() == ingest.info()
    assert "nowhere" not in str(ingest.info()), "a path of this machine would get into dataset.json"


@pytest.mark.parametrize("name", LABELLED_SETS)
def test_every_labelled_set__has_every_setting_in_its_config(name: str) -> None:
    ingest = configured(name)
    every = {field.name for field in fields(ingest)}
    needed = every - {"part"} if len(ingest.PARTS) == 1 else every
    assert needed <= set(config(name)) - {"_target_"} <= every
    assert ingest.part == ingest.PARTS[0] and ingest.licence
    assert ingest.info()["settings"].keys() == every - {"root"}


@pytest.mark.parametrize("name", LABELLED_SETS)
def test_every_labelled_set__explains_its_layout_where_nothing_of_it_is_found(name: str, tmp_path: Path) -> None:
    doc = inspect.getdoc(configured(name)) or ""
    layout = doc.split("\n\n")[1]
    assert "root" in layout and "Licence:" in doc
    with pytest.raises(UserError, match="found nothing of it") as caught:
        replace(configured(name), root=str(tmp_path)).items()
    assert str(caught.value).endswith(f"its layout is\n{layout}")


@pytest.mark.parametrize("name", LABELLED_SETS)
def test_every_labelled_set__names_its_parts_when_there_is_no_such_part(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected part=.* but got 'nonsense'"):
        replace(configured(name), root=str(tmp_path), part="nonsense").items()
