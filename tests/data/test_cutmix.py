import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from depth_anything_train.data.cutmix import Box, CutMix, cutmix
from depth_anything_train.runtime import UserError


def batch(count, size=20):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    disparity = torch.rand((count, 1, size, size), generator=generator)
    return image, disparity, disparity > 0.3


def mix(image, disparity, valid, boxes):
    region = cutmix(image, disparity, valid, boxes)
    return image, disparity, valid, region


def slow_cutmix(image, disparity, valid, boxes):
    """Pixel by pixel, from u_ab = u_a * M + u_b * (1 - M)."""
    out = [tensor.clone() for tensor in (image, disparity, valid)]
    region = torch.ones_like(valid)
    for a, box in enumerate(boxes):
        b = a + 1 if a % 2 == 0 else a - 1
        if box is None:
            continue
        for y in range(box.top, box.bottom):
            for x in range(box.left, box.right):
                for mixed, original in zip(out, (image, disparity, valid), strict=True):
                    mixed[a, :, y, x] = original[b, :, y, x]
                region[a, 0, y, x] = False
    return *out, region


@pytest.mark.parametrize("count", [2, 6])
def test_cutmix__matches_plain_python(count):
    boxes = CutMix(probability=0.8).boxes(20, 0, 0, range(count))
    assert any(box is None for box in boxes) or count == 2
    for mixed, expected in zip(mix(*batch(count), boxes), slow_cutmix(*batch(count), boxes), strict=True):
        assert torch.equal(mixed, expected)


def test_cutmix__pastes_from_the_unmixed_partner():
    whole = Box(0, 0, 20, 20)
    image, disparity, valid = batch(2)
    mixed, labels, may_use, region = mix(*batch(2), [whole, whole])
    assert torch.equal(mixed, image.flip(0)) and torch.equal(labels, disparity.flip(0))
    assert torch.equal(may_use, valid.flip(0)) and not region.any()


def test_cutmix__without_boxes_changes_nothing():
    image, disparity, valid = batch(4)
    mixed, labels, may_use, region = mix(*batch(4), [None] * 4)
    assert torch.equal(mixed, image) and torch.equal(labels, disparity) and torch.equal(may_use, valid)
    assert region.all()


def test_cutmix__leaves_other_pairs_alone():
    mixed, labels, may_use, _ = mix(*batch(4), [None, None, Box(0, 0, 5, 5), Box(3, 3, 9, 9)])
    for now, before in zip((mixed, labels, may_use), batch(4), strict=True):
        assert torch.equal(now[:2], before[:2]) and not torch.equal(now[2:], before[2:])


def test_cutmix__invalid_labels_may_be_nan():
    image, disparity, valid = batch(2)
    disparity[~valid] = torch.nan
    _, labels, may_use, _ = mix(image, disparity, valid, [Box(2, 2, 12, 12), None])
    assert torch.equal(torch.isnan(labels), ~may_use)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(2, 600),
    area=st.tuples(st.floats(0.001, 0.2), st.floats(0.2, 0.6)),
    aspect=st.tuples(st.floats(0.2, 1), st.floats(1, 5)),
)
def test_boxes__lie_inside_the_image(seed, size, area, aspect):
    for box in CutMix(1.0, area, aspect).boxes(size, seed, 0, range(8)):
        assert 0 <= box.top < box.bottom <= size and 0 <= box.left < box.right <= size


def test_boxes__have_the_stated_probability_area_and_aspect():
    boxes = CutMix().boxes(518, 0, 7, range(2000))
    drawn = [box for box in boxes if box is not None]
    assert stats.binomtest(len(drawn), 2000, 0.5).pvalue > 0.001
    heights, widths = (
        np.array(side) for side in zip(*((b.bottom - b.top, b.right - b.left) for b in drawn), strict=True)
    )
    area, aspect = heights * widths / 518**2, heights / widths
    assert 0.018 < area.min() < 0.03 and 0.36 < area.max() < 0.4
    assert 0.29 < aspect.min() < 0.5 and 2.5 < aspect.max() < 3.4
    assert stats.kstest(area, stats.uniform(0.02, 0.38).cdf).pvalue > 0.001


def test_boxes__depend_on_seed_step_and_position_alone():
    mix = CutMix(1.0)
    whole = mix.boxes(100, 3, 5, range(8))
    assert mix.boxes(100, 3, 5, range(4)) + mix.boxes(100, 3, 5, range(4, 8)) == whole
    assert mix.boxes(100, 4, 5, range(8)) != whole
    assert mix.boxes(100, 3, 6, range(8)) != whole
    assert len(set(whole)) == 8


@pytest.mark.parametrize(
    "options", [{"probability": 1.1}, {"area": (0.5, 1.0)}, {"area": (0.4, 0.1)}, {"aspect": (1.5, 2.0)}]
)
def test_cutmix__refuses_impossible_values(options):
    with pytest.raises(UserError, match=r"data\.cutmix"):
        CutMix(**options)
