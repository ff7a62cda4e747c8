from __future__ import annotations

from pathlib import Path

import pytest
from raw_sets import write

from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from depth_anything_train.data.schema import BadSample


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        write(root / path, b"")
    return root


def test_find_names__image_and_label_get_the_same_name(tmp_path: Path) -> None:
    make(tmp_path, "a/rgb/l_1.png", "a/disp/d_1.exr", "b/rgb/l_1.png", "b/rgb/r_1.png", "a/rgb/.l_2.png", "rgb/l_3.png")
    assert find_names(tmp_path, "*/rgb/l_*.png") == {"a/1": "a/rgb/l_1.png", "b/1": "b/rgb/l_1.png"}
    assert find_names(tmp_path, "*/disp/d_*.exr") == {"a/1": "a/disp/d_1.exr"}


def test_find_names__two_stars_are_any_number_of_folders(tmp_path: Path) -> None:
    make(tmp_path, "col/1_c.png", "x/col/1_c.png", "x/y.z/col/1_c.png", "x/other/1_c.png")
    assert set(find_names(tmp_path, "**/col/*_c.png")) == {"1", "x/1", "x/y.z/1"}


def test_find_names__signs_of_a_pattern_in_a_folder_are_meant(tmp_path: Path) -> None:
    make(tmp_path / "[a]*", "b+c/1.jpg")
    assert find_names(tmp_path / "[a]*", "*/*.jpg") == {"b+c/1": "b+c/1.jpg"}


def test_find_names__the_first_of_several_patterns_wins(tmp_path: Path) -> None:
    make(tmp_path, "1.JPG", "1.jpg", "2.JPG")
    assert find_names(tmp_path, "*.jpg", "*.JPG") == {"1": "1.jpg", "2": "2.JPG"}


def test_pair_up__a_missing_partner_is_an_item_too() -> None:
    items = {item.name: item for item in pair_up({"a": "a.jpg", "b": "b.jpg"}, {"b": "b.png", "c": "c.png"})}
    assert items == {
        "a": Item("a", "a.jpg", ""),
        "b": Item("b", "b.jpg", "b.png"),
        "c": Item("c", "", "c.png"),
    }


class Halves(LabelledSet):
    """A set in which every item lacks something."""

    source = "halves"
    licence = "none"

    def find(self, root: Path) -> list[Item]:
        return [Item("b10", "", "b.png"), Item("b2", "b.jpg", ""), Item("b/2", "b.jpg", "b.png"), Item("b_2", "b", "b")]

    def read(self, root: Path, item: Item) -> RawPair:
        raise AssertionError("nothing is read of an item that lacks a file")


def test_load__says_which_half_is_missing(tmp_path: Path) -> None:
    halves = Halves(str(tmp_path))
    items = halves.items()
    assert [item.name for item in items] == ["b2", "b10", "b/2", "b_2"]
    reasons = {"b2": "missing_label", "b10": "missing_image", "b_2": "duplicate_key"}
    for item in items[:2] + items[3:]:
        with pytest.raises(BadSample) as caught:
            halves.load(item)
        assert caught.value.reason == reasons[item.name]
