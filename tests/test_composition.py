import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from depth_anything_train.composition import compose
from depth_anything_train.overrides import as_override
from depth_anything_train.runtime import UserError


def test_compose__an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"samples_per_shart is no key of `prepare`; did you mean samples_per_shard\?"):
        compose("prepare", ["dataset=images", "root=x", "samples_per_shart=3"])


def test_compose__an_unknown_nested_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"did you mean checkpoint.every_n_steps\?"):
        compose("train", ["experiment=tiny_teacher", "checkpoint.every_n_step=3"])


def test_compose__an_unknown_choice_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"dataset=imagez is not known; did you mean dataset=images\?.*pairs"):
        compose("prepare", ["dataset=imagez"])


def test_compose__a_missing_choice_lists_the_choices():
    with pytest.raises(UserError, match="experiment.*tiny_teacher"):
        compose("train", [])


def test_compose__text_that_is_no_override_is_named():
    with pytest.raises(UserError, match="'root' cannot be read: expected key=value"):
        compose("prepare", ["dataset=images", "root"])


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "my folder/it's, (new) [x] = \\ ü",
        "a\\",
        "",
        ["a", "b c"],
        {"day": "x/y", "k-2": ["*-day"]},
        None,
        True,
        3,
        0.5,
        "3",
        "2024.10",
        "1e5",
        "null",
        "true",
        "nan",
        "runs/ü",
    ],
)
def test_as_override__any_value_comes_back_equal(value):
    parsed = OverridesParser.create().parse_override(as_override("key", value)).value()
    assert parsed == value and type(parsed) is type(value)


def test_compose__a_folder_with_commas_is_told_how_to_be_quoted():
    with pytest.raises(UserError, match=r"""write "root='a, \[b\]'\""""):
        compose("prepare", ["dataset=images", "root=a, [b]"])


def test_compose__keys_in_a_list_are_told_how_to_be_quoted():
    with pytest.raises(UserError) as refused:
        compose("doctor", ["experiment=tiny_student", "overrides=[size=56,compile=false]"])
    proposed = shlex.split(str(refused.value).partition("; write ")[2].removesuffix("."))
    assert compose("doctor", ["experiment=tiny_student", *proposed]).overrides == ["size=56", "compile=false"]


@pytest.mark.parametrize("typed", ["labelled=[dätä/pairs]", "labelled=dätä/pairs", "labelled=[a b,ü]"])
def test_compose__a_list_of_paths_beyond_ascii_is_told_how_to_be_quoted(typed):
    given = typed
    for _ in range(2):  # a text first becomes a quoted text, then a list
        with pytest.raises(UserError) as refused:
            compose("train", ["experiment=tiny_teacher", given])
        (given,) = shlex.split(str(refused.value).partition("; write ")[2].removesuffix("."))
        if given.startswith("labelled=["):
            break
    expected = typed.partition("=")[2].strip("[]").split(",")
    assert compose("train", ["experiment=tiny_teacher", given]).labelled == expected


@pytest.mark.parametrize(
    ("name", "choices", "typed", "said"),
    [
        ("run", ["pipeline=folders", "pairs=a", "photos=b"], "sed=1", "sed is no key of `run`; did you mean seed"),
        ("run", ["pipeline=folders", "photos=b"], "pairs=dä", """write "pairs='dä'\""""),
        ("evaluate", ["suite=v1_table2", "model=m"], "limitt=3", "limitt is no key of `evaluate`; did you mean limit"),
        ("train", ["experiment=folders_teacher", "ablation=naive"], "labelled=[dä]", """write "labelled=['dä']\""""),
    ],
)
def test_compose__a_choice_before_a_mistake_is_not_what_is_wrong(name, choices, typed, said):
    with pytest.raises(UserError, match=re.escape(said)):
        compose(name, [*choices, typed])


def test_compose__choices_that_do_not_go_together_are_named_with_what_is_missing():
    with pytest.raises(UserError, match="ablation=naive chooses .*: expected an experiment with data/perturbation"):
        compose("train", ["experiment=tiny_teacher", "ablation=naive"])


def test_as_override__a_name_that_hydra_reads_otherwise_is_refused():
    for name in ("a:b", "ä", "1.5", "true", "a,b"):
        with pytest.raises(UserError, match="which Hydra reads otherwise"):
            as_override("key", {name: 1})
    for name in ("my model", "nyu+kitti", "v2@518", "a/b.c"):
        assert OverridesParser.create().parse_override(as_override("key", {name: 1})).value() == {name: 1}


def test_compose__plus_makes_no_key_that_nothing_reads():
    with pytest.raises(UserError, match="stpes is no key of `train`, and [+] makes none .*did you mean steps"):
        compose("train", ["experiment=tiny_teacher", "+stpes=3"])
    assert compose("train", ["experiment=tiny_teacher", "+trainer.benchmark=true", "++steps=3"]).trainer.benchmark


def test_compose__an_unknown_key_is_found_beside_keys_without_a_value():
    with pytest.raises(UserError, match="foo is no key of `run`"):
        compose("run", ["foo=3"])


def test_compose__a_mapping_in_place_of_a_list_is_told_how_to_be_typed():
    with pytest.raises(UserError, match="Expected a list for validation, but got {'a': 'my val'}") as refused:
        compose("train", ["experiment=tiny_teacher", "validation={a: 'my val'}"])
    (proposed,) = shlex.split(str(refused.value).partition("; write ")[2].removesuffix("."))
    assert compose("train", ["experiment=tiny_teacher", proposed]).validation == ["my val"]


@pytest.mark.parametrize("place", ["a", "0"])
def test_compose__a_name_or_a_place_that_a_list_lacks_is_told_how_the_list_is_typed(place: str):
    with pytest.raises(UserError, match=rf"which has 0 items and no {place}; write validation=\[A,B,...\]"):
        compose("train", ["experiment=tiny_teacher", f"validation.{place}=3"])


def test_compose__a_place_that_a_list_has_is_not_what_is_wrong():
    with pytest.raises(UserError, match="foo is no key of `train`"):
        compose("train", ["experiment=tiny_teacher", "optim.betas.0=0.5", "foo=3"])


def test_compose__a_list_in_place_of_a_mapping_is_told_how_to_be_typed():
    with pytest.raises(UserError, match=r"names and values for checkpoint, but got \[1\]; write checkpoint.NAME=VALUE"):
        compose("train", ["experiment=tiny_teacher", "checkpoint=[1]"])
