from dataclasses import dataclass

import pytest

from data_engine.labelling.batches import batches, nearest_aspect


@dataclass
class Item:
    number: int
    shape: tuple[int, int] | None


def grouped(shapes, batch_size, patience):
    items = [Item(number, shape and (shape, shape)) for number, shape in enumerate(shapes)]
    return [[item.number for item in batch] for batch in batches(items, batch_size, patience)]


def test_batches__are_of_one_size_and_fill_across_the_shard():
    assert grouped([1, 2, 1, 2, 1, 1], batch_size=2, patience=9) == [[0, 2], [1, 3], [4, 5]]


def test_batches__what_is_left_goes_out_at_the_end():
    assert grouped([1, 1, 1, 2], batch_size=2, patience=9) == [[0, 1], [2], [3]]


def test_batches__a_rare_size_waits_no_longer_than_patience():
    assert grouped([1, 2, 2, 2, 2, 2, 1], batch_size=2, patience=3) == [[1, 2], [0], [3, 4], [5], [6]]


def test_batches__an_image_that_cannot_be_used_goes_out_at_once():
    assert grouped([1, None, 1], batch_size=2, patience=9) == [[1], [0, 2]]


@pytest.mark.parametrize("patience", [1, 2, 5, 100])
def test_batches__hold_every_image_once_and_keep_few_waiting(patience):
    shapes = [number**2 % 7 + 1 for number in range(200)]
    out = grouped(shapes, batch_size=4, patience=patience)
    assert sorted(number for batch in out for number in batch) == list(range(200))
    newest = 0
    for batch in out:
        newest = max(newest, *batch)
        assert newest - batch[0] <= patience + 7  # one batch goes out an image: others may be due at the same time


@pytest.mark.parametrize(("height", "width", "expected"), [(480, 640, 4 / 3), (640, 480, 0.75), (100, 108, 1)])
def test_nearest_aspect__is_the_one_with_the_least_stretch(height, width, expected):
    assert nearest_aspect(height, width, [0.75, 1, 4 / 3]) == expected
