from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import scene

from data_engine.qa.agreement import Edges, agreement, edges

SCENES = 40


@pytest.fixture(scope="module")
def pairs() -> list[Edges]:
    """Different scenes, and of every second one a sparse label: one pixel in ten."""
    found = []
    for number in range(SCENES):
        image, disparity = scene(number, 120, 160)
        share = 0.1 if number % 2 else 1.0
        found.append(edges(image, disparity, np.random.default_rng(number).random(disparity.shape) < share))
    return found


def mean(scores: list[float | None]) -> float:
    assert None not in scores
    return float(np.mean(scores))  # type: ignore[arg-type]


def test_agreement__labels_fit_their_own_images_best(pairs: list[Edges]) -> None:
    assert mean(agreement(pairs)) > 0.95


def test_agreement__shuffled_labels_fit_no_better_than_chance(pairs: list[Edges]) -> None:
    order = np.random.default_rng(0).permutation(SCENES)
    shuffled = [Edges(pairs[i].image, pairs[j].label) for i, j in enumerate(order)]
    assert abs(mean(agreement(shuffled)) - 0.5) < 0.2


def test_agreement__one_label_of_another_image_stands_out(pairs: list[Edges]) -> None:
    scores = agreement([*pairs[:10], Edges(pairs[10].image, pairs[20].label), *pairs[11:]])
    assert np.argmin(scores) == 10  # type: ignore[arg-type]


def test_agreement__the_unit_of_a_label_does_not_matter(pairs: list[Edges]) -> None:
    image, disparity = scene(0, 120, 160)
    assert agreement([edges(image, disparity / 256, np.ones(disparity.shape, bool)), *pairs[1:]])[0] == 1


def test_agreement__a_label_may_have_another_size(pairs: list[Edges]) -> None:
    image, disparity = scene(0, 120, 160)
    half = disparity[::2, ::2]
    other = edges(image, half, np.ones(half.shape, bool))
    assert agreement([other, *pairs[1:]])[0] == 1


def test_agreement__few_images_or_few_edges_say_nothing(pairs: list[Edges]) -> None:
    assert agreement(pairs[:8]) == [None] * 8
    assert None not in agreement(pairs[:9])
    image, disparity = scene(0, 120, 160)
    nothing: NDArray[np.bool_] = np.zeros(disparity.shape, bool)
    scores = agreement([edges(image, disparity, nothing), *pairs[1:]])
    assert scores[0] is None and None not in scores[1:]


def test_agreement__sky_alone_agrees_with_nothing(pairs: list[Edges]) -> None:
    image, disparity = scene(0, 120, 160)
    everywhere = np.ones(disparity.shape, bool)
    assert agreement([edges(image, np.zeros_like(disparity), everywhere), *pairs[1:]])[0] is None


def test_agreement__sky_beside_something_is_an_edge(pairs: list[Edges]) -> None:
    image, disparity = scene(0, 120, 160)
    image[:30], disparity[:30] = 255, 0
    everywhere = np.ones(disparity.shape, bool)
    assert agreement([edges(image, disparity, everywhere), *pairs[1:]])[0] == 1
