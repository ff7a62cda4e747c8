import numpy as np
import pytest

from depth_anything_train.metrics.pairs import PairProtocol, pair_accuracy
from depth_anything_train.runtime import UserError

DISPARITY = np.array([[3.0, 2.0], [1.0, 1.0]])


def pair(nearer, farther):
    return {"nearer": list(nearer), "farther": list(farther)}


def test_pair_accuracy__counts_pairs_whose_nearer_point_has_more_disparity():
    right, wrong = pair((0, 0), (1, 0)), pair((1, 0), (0, 1))
    assert pair_accuracy(DISPARITY, [right, right, wrong]) == pytest.approx(200 / 3)


def test_pair_accuracy__a_tie_is_wrong():
    assert pair_accuracy(DISPARITY, [pair((1, 0), (1, 1)), pair((1, 1), (1, 0))]) == 0


def test_pair_accuracy__refuses_a_prediction_that_is_not_finite():
    with pytest.raises(UserError, match="finite"):
        pair_accuracy(np.full((2, 2), np.nan), [pair((0, 0), (1, 1))])


def test_pair_protocol__refuses_an_unknown_family():
    with pytest.raises(UserError, match="family"):
        PairProtocol(family="v2")
