import json
import os
from pathlib import Path

import pytest

from depth_anything_train.files import (
    atomic_writer,
    read_json,
    remove_leftovers,
    require_folder,
    require_writable,
    write_json,
)
from depth_anything_train.runtime import UserError


def test_atomic_writer__an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_writer(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_writer__nothing_is_visible_before_the_end(tmp_path):
    target = tmp_path / "sub" / "file"
    with atomic_writer(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"


def test_write_json__equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": [2]})
    write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": [2]}


@pytest.mark.parametrize("content", [None, "{torn"])
def test_read_json__names_a_missing_or_damaged_file(tmp_path, content):
    path = tmp_path / "mark.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="mark.json"):
        read_json(path)


def test_require_folder__tells_missing_from_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="photographs.*does not exist"):
        require_folder(tmp_path / "none", what="photographs")
    with pytest.raises(UserError, match="is not a folder"):
        require_folder(tmp_path / "file", what="photographs")
    assert require_folder(tmp_path, what="photographs") == tmp_path


@pytest.mark.parametrize("content", ["[1]", "{}"])
def test_read_json__without_the_keys_it_needs_is_damaged(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match="damaged: expected keys size"):
        read_json(tmp_path / "a.json", keys=("size",))


def test_read_json__values_of_other_types_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"size": "3", "name": "x"}')
    with pytest.raises(UserError, match="damaged: expected keys size;"):
        read_json(tmp_path / "a.json", keys={"size": int, "name": str})


@pytest.mark.parametrize("address", ["s3://bucket/raw", Path("gs://bucket/raw"), "https://host/raw"])
def test_require_folder__of_an_address_it_says_what_to_do(address):
    with pytest.raises(UserError, match=r"photographs in a folder of this machine, but \w+://\w+/raw is .* copy it"):
        require_folder(address, what="photographs")


def test_require_writable__makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="folder to write to"):
            require_writable(folder)


def test_remove_leftovers__a_file_that_is_being_written_stays(tmp_path):
    (tmp_path / f".a.json.{0:032x}.tmp").write_text("of a killed writer")
    with atomic_writer(tmp_path / "a.json") as file:
        file.write(b"whole")
        remove_leftovers(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"whole")]


def test_remove_leftovers__hidden_files_of_others_stay(tmp_path):
    for name in (".notes.tmp", ".tmp", f"{0:032x}.tmp", f".a.{0:032x}.tmp.bak"):
        (tmp_path / name).write_text("somebody's")
    (tmp_path / f".a.{0:032x}.tmp").write_text("of a killed writer")
    remove_leftovers(tmp_path)
    assert len([*tmp_path.iterdir()]) == 4 and not (tmp_path / f".a.{0:032x}.tmp").exists()
