import pytest
import torch
from torch.nn.functional import interpolate

from depth_anything_train.ops.resampling import bicubic_matrix


@pytest.mark.parametrize("target", [1, 4, 7, 11, 37])
@pytest.mark.parametrize("antialias", [False, True])
def test_bicubic_matrix__gives_the_numbers_of_interpolate(target, antialias):
    values = torch.randn(1, 3, 7, 7)
    theirs = interpolate(values, size=(target, target), mode="bicubic", antialias=antialias)
    matrix = bicubic_matrix(target, 7, torch.tensor(7 / target), antialias=antialias)
    torch.testing.assert_close(matrix @ values @ matrix.T, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [1, 4, 8, 37])
def test_bicubic_matrix__gives_the_numbers_of_interpolate_by_a_factor(target):
    values = torch.randn(1, 3, 7, 7)
    factor = (target + 0.1) / 7
    theirs = interpolate(values, scale_factor=(factor, factor), mode="bicubic")
    matrix = bicubic_matrix(target, 7, torch.tensor(1 / factor))
    torch.testing.assert_close(matrix @ values @ matrix.T, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
def test_bicubic_matrix__of_step_one_changes_nothing(antialias):
    assert bicubic_matrix(9, 9, torch.tensor(1.0), antialias=antialias).equal(torch.eye(9))
