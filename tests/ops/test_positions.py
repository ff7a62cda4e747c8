import math
from typing import get_args

import pytest
import timm.layers
import torch

from depth_anything_train.ops.positions import PositionWay, positions_by_matrices, resample_positions


def cubic(distance):
    """The cubic convolution kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def slow_dinov2(embedding, grid):
    """One output token at a time, from the kernel's formula: sample at (i + 0.5) * n / (length + 0.1) - 0.5."""
    side = math.isqrt(embedding.shape[1] - 1)
    square = embedding[0, 1:].view(side, side, -1)
    tokens = [embedding[0, 0]]
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = ((i + 0.5) * side / (length + 0.1) - 0.5 for i, length in zip((row, column), grid, strict=True))
            token = torch.zeros_like(tokens[0])
            for j in range(math.floor(y) - 1, math.floor(y) + 3):
                for i in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = square[min(max(j, 0), side - 1), min(max(i, 0), side - 1)]
                    token = token + cubic(y - j) * cubic(x - i) * pixel
            tokens.append(token)
    return torch.stack(tokens)[None]


def embedding(side=5, dim=3):
    return torch.randn(1, 1 + side * side, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("way", get_args(PositionWay))
def test_resample__is_the_identity_on_the_native_grid(way):
    native = embedding()
    assert resample_positions(native, (5, 5), way) is native


@pytest.mark.parametrize("way", get_args(PositionWay))
@pytest.mark.parametrize("grid", [(4, 4), (7, 3), (1, 25), (25, 1), (12, 9)])
def test_resample__gives_one_token_per_patch_and_leaves_the_class_token(way, grid):
    native = embedding()
    resampled = resample_positions(native, grid, way)
    assert resampled.shape == (1, 1 + grid[0] * grid[1], 3)
    assert torch.equal(resampled[:, 0], native[:, 0])


@pytest.mark.parametrize("grid", [(6, 6), (3, 8), (5, 7)])
def test_resample__dinov2_matches_the_formula(grid):
    torch.testing.assert_close(resample_positions(embedding(), grid, "dinov2"), slow_dinov2(embedding(), grid))


@pytest.mark.parametrize("length", range(1, 120))
def test_resample__dinov2_hits_every_length_from_the_released_grid(length):
    resampled = resample_positions(embedding(side=37, dim=1), (length, 37 + length), "dinov2")
    assert resampled.shape[1] == 1 + length * (37 + length)


def test_resample__timm_matches_timm():
    native = embedding().float()
    expected = timm.layers.resample_abs_pos_embed(native, new_size=[4, 9], old_size=[5, 5])
    torch.testing.assert_close(resample_positions(native, (4, 9), "timm"), expected)


def test_resample__ways_differ():
    results = [resample_positions(embedding(), (4, 6), way) for way in get_args(PositionWay)]
    assert all(not torch.allclose(a, b) for a, b in ((results[0], results[1]), (results[1], results[2])))


def test_resample__works_in_float32_whatever_the_weights():
    half = embedding().bfloat16()
    resampled = resample_positions(half, (4, 6))
    assert resampled.dtype == torch.bfloat16
    torch.testing.assert_close(resampled, resample_positions(half.float(), (4, 6)).bfloat16())


@pytest.mark.parametrize("way", get_args(PositionWay))
@pytest.mark.parametrize("grid", [(5, 5), (5, 7), (3, 5), (9, 4)])
def test_by_matrices__has_the_same_numbers(way, grid):
    learnt = embedding().float()
    found, expected = positions_by_matrices(learnt, grid, way), resample_positions(learnt, grid, way)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
