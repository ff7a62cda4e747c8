from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_engine.ingest.base import layout_of, list_files, natural_order, walk_files
from depth_anything_train.runtime import UserError

names = st.text(st.sampled_from("0019abAB/-. _ä\udcff\x01"), max_size=12)


def in_parts(name: str) -> list[tuple[int, int, str]]:
    """The same order, said at length: text by text, numbers by value and then as they stand."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if number % 2 else (0, 0, part) for number, part in enumerate(parts)]


@given(names, names)
@example("a0", "a00")
@example("a01b", "a1a")
@example("photo2", "photo10")
def test_natural_order__compares_numbers_by_value(one: str, other: str) -> None:
    assert (natural_order(one) < natural_order(other)) == (in_parts(one) < in_parts(other))
    assert (natural_order(one) == natural_order(other)) == (one == other)


def test_list_files__is_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(300):
        parts = ["".join(draw.choices("019ab-. A", k=draw.randint(1, 3))).strip(" .") or "x" for _ in range(3)]
        folder = tmp_path.joinpath(*(f"{part}_" for part in parts[: draw.randint(0, 2)]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{parts[-1]}.jpg").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")]
    assert list_files(tmp_path, ["jpg"]) == sorted(found, key=in_parts) and len(found) > 100


def test_list_files__follows_links_to_files_and_to_folders_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").touch()
    (tmp_path / "root" / "folder.jpg").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "file.jpg").symlink_to(tmp_path / "other" / "a.jpg")
    (tmp_path / "root" / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "root" / "same").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "z").mkdir()
    (tmp_path / "root" / "z" / "b.jpg").touch()
    (tmp_path / "root" / "latest").symlink_to(tmp_path / "root" / "z")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    assert list_files(tmp_path / "root", ["jpg"]) == ["file.jpg", "folder.jpg/a.jpg", "nowhere.jpg", "z/b.jpg"]


def test_walk_files__a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    paths = walk_files(tmp_path, ["jpg"])
    assert next(paths) == "a/1.jpg"
    os.rename(tmp_path / "b", tmp_path / "gone")
    with pytest.raises(UserError, match=r"read the folder .*b/"):
        next(paths)


def test_layout_of__is_the_second_paragraph_and_does_without_docstrings() -> None:
    class Described:
        """A set.

        root/images/NAME.jpg
        root/labels/NAME.png

        Licence: CC0.
        """

    assert layout_of(Described) == "root/images/NAME.jpg\nroot/labels/NAME.png"
    Described.__doc__ = None  # as under python -OO
    assert "docs/datasets.md" in layout_of(Described)
