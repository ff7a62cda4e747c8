from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_sets import HEIGHT, WIDTH, Prepared, cut, write, write_image

from data_engine.ingest.da_2k import Da2k, read_pair
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def annotation(nearer: tuple[int, int], farther: tuple[int, int]) -> dict[str, Any]:
    return {"point1": list(nearer), "point2": list(farther), "closer_point": "point1"}


def write_da_2k(root: Path) -> Path:
    pairs = {
        "images/indoor/b10.jpg": [annotation((5, 7), (0, 0)), annotation((1, 2), (3, 4))],
        "images/indoor/b2.jpg": [annotation((0, 1), (2, 3))],
        "images/non_real/b2.png": [{"point1": [0, 0], "point2": [4, 5], "closer_point": "point2"}],
    }
    for path in pairs:
        write_image(root / path)
    write(root / "annotations.json", json.dumps(pairs).encode())
    return root


def test_da_2k__images_with_their_pairs(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_da_2k(tmp_path / "DA-2K")
    prepared = prepare_set("da_2k", root)
    assert list(prepared.samples) == ["indoor_b2", "indoor_b10", "non_real_b2"]
    assert (prepared.info["kind"], prepared.info["licences"]) == ("images", {"Apache-2.0": 3})
    record = prepared.samples["indoor_b10"]
    assert record.image == (root / "images/indoor/b10.jpg").read_bytes()
    assert record.meta["pairs"] == [{"nearer": [5, 7], "farther": [0, 0]}, {"nearer": [1, 2], "farther": [3, 4]}]
    assert record.meta["scenario"] == "indoor"
    assert prepared.samples["non_real_b2"].meta["pairs"] == [{"nearer": [4, 5], "farther": [0, 0]}]


def test_da_2k__damaged_and_wrong_items_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_da_2k(tmp_path / "DA-2K")
    pairs = json.loads((root / "annotations.json").read_text())
    pairs |= {"images/aerial/cut.jpg": [], "images/aerial/gone.jpg": [], "images/aerial/odd.jpg": [{"point1": [0, 0]}]}
    write(root / "annotations.json", json.dumps(pairs).encode())
    for name in ("cut", "odd"):
        write_image(root / f"images/aerial/{name}.jpg")
    cut(root / "images/aerial/cut.jpg")
    prepared = prepare_set("da_2k", root)
    assert prepared.info["drops"] == {"truncated_image": 1, "unreadable_file": 1, "bad_annotation": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        annotation((HEIGHT, 0), (0, 0)),
        annotation((0, 0), (0, WIDTH)),
        annotation((0, -1), (0, 0)),
        {**annotation((0, 0), (1, 1)), "closer_point": "point3"},
        {**annotation((0, 0), (1, 1)), "point2": [1]},
        {**annotation((0, 0), (1, 1)), "point2": None},
        [[0, 0], [1, 1]],
    ],
)
def test_read_pair__refuses_what_is_none(wrong: Any) -> None:
    with pytest.raises(BadSample) as caught:
        read_pair(wrong, HEIGHT, WIDTH)
    assert caught.value.reason == "bad_annotation"


def test_da_2k__count_draws_images(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    prepared = prepare_set("da_2k", write_da_2k(tmp_path / "DA-2K"), "count=2", "seed=1")
    assert len(prepared.samples) == 2


def test_da_2k__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root/images/indoor"):
        Da2k(str(tmp_path)).items()
    for content in (b"[]", b'{"images/a.jpg": 3}'):
        write(tmp_path / "annotations.json", content)
        with pytest.raises(UserError, match="by the path of an image"):
            Da2k(str(tmp_path)).items()
