import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference import preprocess
from depth_anything_train.inference.preprocess import network_size, prepare, resize_map, resize_on
from depth_anything_train.ops.normalisation import IMAGENET_MEAN, IMAGENET_STD
from depth_anything_train.runtime import UserError


@pytest.mark.parametrize(
    ("photo", "network"),
    [((375, 1242), (518, 1722)), ((480, 640), (518, 686)), ((640, 480), (686, 518)), ((9, 9), (518, 518))],
)
def test_network_size__is_that_of_the_released_models(photo, network):
    assert network_size(*photo, 518) == network


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), size=st.integers(14, 700))
def test_network_size__sides_are_multiples_of_the_patch_and_never_below_the_size(height, width, size):
    if max(height, width) > 5 * min(height, width):
        return
    sides = network_size(height, width, size)
    assert all(side % 14 == 0 and side >= size for side in sides)
    assert min(sides) - size < 14
    exact = max(height, width) * size / min(height, width)
    assert abs(max(sides) - exact) < 14


def test_network_size__refuses_strips_and_sizes_below_a_patch():
    with pytest.raises(BadSample, match="less extreme aspect"):
        network_size(1, 100_000, 518)
    with pytest.raises(UserError, match="at least one patch"):
        network_size(480, 640, 13)
    with pytest.raises(UserError, match="at most 4096 pixels, but got 100000"):
        network_size(1, 1, 100_000)
    with pytest.raises(UserError, match="at most 16,777,216 pixels together"):
        network_size(1, 1, [14, 1_400_000])


def test_prepare__normalises_by_the_statistics_of_imagenet():
    image = np.empty((28, 42, 3), np.uint8)
    image[:] = (255, 0, 51)
    batch = prepare([image, image], 28)
    assert batch.shape == (2, 3, 28, 42) and batch.dtype == torch.float32
    expected = (np.array([1, 0, 0.2]) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert batch[1, :, 3, 5].numpy() == pytest.approx(expected, abs=1e-6)


def test_prepare__is_cubic_interpolation_of_the_picture_between_0_and_1():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = cv2.resize(image.astype(np.float32) / 255, (42, 28), interpolation=cv2.INTER_CUBIC)
    expected = (expected - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    assert (prepare([image], 28)[0].permute(1, 2, 0).numpy() == expected).all()


def test_prepare__fast_is_within_half_a_grey_level_but_stops_at_black_and_white():
    smooth = cv2.resize(np.random.default_rng(0).integers(20, 236, (6, 9, 3), np.uint8), (90, 60))
    grey_level = 1 / 255 / min(IMAGENET_STD)
    exact, fast = prepare([smooth], 28), prepare([smooth], 28, fast=True)
    assert 0 < (exact - fast).abs().max() <= 1.01 * grey_level
    assert (exact - fast).abs().mean() < grey_level / 2
    edge = np.zeros((60, 90, 3), np.uint8)
    edge[:, 45:] = 255
    white = (1 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    assert prepare([edge], 28)[0, 0].max() > white[0]
    assert prepare([edge], 28, fast=True)[0, 0].max() == pytest.approx(white[0])


def test_resize_on__gives_what_prepare_does_whatever_is_resized_together(monkeypatch):
    rng, shapes = np.random.default_rng(0), [(60, 90), (300, 450), (60, 90), (40, 60), (60, 90)]
    # As smooth as photographs are: white noise shows how places of samples are rounded.
    images = [cv2.GaussianBlur(rng.integers(0, 256, (*shape, 3), np.uint8), (0, 0), 2) for shape in shapes]
    expected = torch.cat([prepare([image], 28) for image in images])
    for together in (2**26, 2 * 60 * 90, 1):
        monkeypatch.setattr(preprocess, "MOST_TOGETHER", together)
        found = resize_on(torch.device("cpu"), images, 28, 42)
        found = (found - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    mixed = [images[0], cv2.resize(images[1].astype(np.float32) / 255, (42, 28)), images[2]]
    found = resize_on(torch.device("cpu"), mixed, 28, 42)
    assert np.array_equal(found[1].permute(1, 2, 0).numpy(), mixed[1])
    torch.testing.assert_close(found[[0, 2]], resize_on(torch.device("cpu"), [images[0], images[2]], 28, 42))


def test_resize_map__keeps_pixel_centres_in_place():
    ramp = np.tile(np.arange(4, dtype=np.float32), (3, 1))
    assert resize_map(ramp, 3, 8)[0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert (resize_map(ramp, 3, 4) == ramp).all()


def test_network_size__a_pair_is_taken_as_it_is():
    assert network_size(480, 640, (392, 518)) == (392, 518)
    assert prepare([np.zeros((30, 90, 3), np.uint8)], [28, 56]).shape == (1, 3, 28, 56)


@pytest.mark.parametrize("size", [(392,), (392, 520), (0, 14), (14.0, 14)])
def test_network_size__a_pair_that_cannot_be_is_refused(size):
    with pytest.raises(UserError, match="height, width"):
        network_size(480, 640, size)
