import csv
import io
import random
from collections import Counter

import numpy as np
import pytest

from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.results import ImageResult, Results, to_csv, to_markdown


def results(shuffle=None):
    numbers = random.Random(0)
    images = [
        ImageResult(
            group, f"{group}-{i}", {"abs_rel": numbers.random() * 10.0 ** (i % 7 - 3), "delta1": numbers.random()}
        )
        for group in ("rooms", "streets")
        for i in range(200)
    ]
    images[0].measures["rmse"] = 2.5
    if shuffle is not None:
        random.Random(shuffle).shuffle(images)
    return Results(DepthProtocol(), images)


def test_means__are_equal_to_the_last_bit_in_every_order():
    assert all(results(k).groups() == results().groups() and results(k).mean() == results().mean() for k in range(5))


def test_mean__counts_every_test_set_the_same():
    one = Results(DepthProtocol(), [ImageResult("a", str(i), {"abs_rel": 0.1}) for i in range(9)])
    one.images.append(ImageResult("b", "x", {"abs_rel": 0.3}))
    assert one.mean() == {"abs_rel": 0.2}
    assert one.groups()["a"]["images"] == 9


def test_intervals__test_sets_are_drawn_apart_from_each_other_and_alike_for_every_model():
    """Of two sets drawn alike the mean would be as uncertain as one of them; drawn apart, 1.4 times less."""
    values = np.random.default_rng(0).random(200)
    images = [ImageResult(name, f"{i:03}", {"abs_rel": x}) for name in "ab" for i, x in enumerate(values)]
    sets, mean = Results(DepthProtocol(), images).intervals()
    widths = [high - low for low, high in (sets["a"]["abs_rel"], sets["b"]["abs_rel"], mean["abs_rel"])]
    assert widths[2] == pytest.approx((widths[0] + widths[1]) / 2 / 2**0.5, rel=0.1)
    assert Results(DepthProtocol(), images[200:]).intervals()[0]["b"] == sets["b"]


def test_measure_that_few_images_have__is_averaged_over_those():
    assert results().groups()["rooms"]["rmse"] == 2.5
    assert "rmse" not in results().groups()["streets"]


def test_measure_that_few_images_have__says_how_many_these_are():
    some = results()
    assert some.partial == {"rmse": 1}
    assert some.remarks == ["RMSE (m): mean over 1 of 400 images, whose labels are in metres."]
    assert some.remarks[0] in to_markdown(some, "student")
    for image in some.images:
        image.measures["rmse"] = 1.0
    assert some.remarks == [] and some.partial == {}


def test_tables__hold_every_number():
    tables = results()
    tables.skipped["truncated_image"] = 3
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert [row["key"] for row in rows] == [image.key for image in tables.images]
    assert float(rows[7]["abs_rel"]) == tables.images[7].measures["abs_rel"]
    markdown = to_markdown(tables, "student")
    for group in tables.groups().values():
        assert f"{group['abs_rel']:.4f}" in markdown and f"{group['delta1']:.4f}" in markdown
    assert DepthProtocol().describe() in markdown
    assert "3 x truncated_image" in markdown


def test_tables__a_test_set_of_one_image_has_no_interval_and_a_name_stays_in_its_cell():
    one = Results(DepthProtocol(), [ImageResult("a|b\nc", "0", {"abs_rel": 0.25, "delta1": 0.5})])
    row = next(line for line in to_markdown(one, "student").splitlines() if "a\\|b c" in line)
    assert row == "| a\\|b c | 1 | 0.2500 | 0.5000 |"
    assert " to " in to_markdown(results(), "student")


def test_results__what_a_reader_has_to_know_stands_beside_the_numbers():
    silent = Results(DepthProtocol(), ratios=[0.9, 1.1])
    assert silent.remarks == []
    loud = Results(DepthProtocol(), skipped=Counter(bad_json=1, image_size=2), ratios=[998.0, 1003.0])
    skipped, warning = loud.remarks
    assert skipped == "Skipped: 1 x bad_json, 2 x image_size."
    assert warning.startswith("Warning: ") and "millimetres" in warning
