import cv2
import numpy as np
import pytest
import torch
from segmented import classes_of
from torch import nn
from torch.nn import functional as F

from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.models.encoder import EncoderConfig
from depth_anything_train.models.segmenter import Segmenter, SegmenterConfig
from depth_anything_train.ops.normalisation import normalize
from depth_anything_train.runtime import UserError

ENCODER = EncoderConfig("test", embed_dim=32, depth=4, num_heads=2, ffn="mlp", taps=(0, 1, 2, 3), image_size=28)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SegmenterConfig(
        ENCODER, num_classes=4, queries=8, width=32, heads=2, feedforward=32, pixel_layers=1, query_layers=1
    )
    segmenter = Segmenter(config).eval()
    nn.init.normal_(segmenter.decoder.class_predictor.weight, std=1.0)
    return segmenter


def window(**changes):
    return SlidingWindow(**{**dict(size=None, crop=56, stride=28), **changes})


@torch.no_grad()
def test_window__that_covers_the_image_is_the_image(model):
    image = torch.randn(1, 3, 56, 84)
    torch.testing.assert_close(window(crop=84, stride=10).slide(model, image), model.scores(image))


@torch.no_grad()
def test_window__overlaps_are_averaged_pixel_by_pixel(model):
    image = torch.randn(1, 3, 56, 120)  # padded to 126: windows at 0, 40 and 70
    padded = F.pad(image, (0, 6))
    found = window(stride=40).slide(model, image)
    parts = {left: model.scores(padded[..., left : left + 56])[0] for left in (0, 40, 70)}
    assert found.shape == (1, 4, 56, 120)
    for column in range(120):
        seen = [part[..., column - left] for left, part in parts.items() if left <= column < left + 56]
        torch.testing.assert_close(found[0, ..., column], torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores__of_several_scales_and_of_the_mirrored_image_are_averaged(model):
    image, _ = classes_of(0, 56, 84)
    found = window(scales=[1.0, 2.0], flip=True, crop=168, stride=168).scores(model, image, (56, 84))
    total = 0
    for factor in (1, 2):
        scaled = image if factor == 1 else cv2.resize(image, (168, 112), interpolation=cv2.INTER_CUBIC)
        for mirrored in (False, True):
            given = scaled[:, ::-1] if mirrored else scaled
            x = normalize(torch.from_numpy(given.copy()).permute(2, 0, 1)[None])
            scores = model.scores(x)
            scores = scores.flip(-1) if mirrored else scores
            total = total + F.interpolate(scores, (56, 84), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, total[0] / 4, rtol=1e-4, atol=1e-5)


def test_classes__the_shorter_side_becomes_size_and_the_longer_has_a_limit(model):
    def shape(image, **changes):
        return next(window(**changes)._scaled(model, image)).shape[-2:]

    image = np.zeros((20, 50, 3), np.uint8)
    assert shape(image, size=28) == (28, 70)
    assert shape(image, size=28, scales=[0.5]) == (14, 35)
    assert shape(image, size=28, max_side=50) == (20, 50)
    assert shape(image, scales=[2.0]) == (40, 100)


@pytest.mark.parametrize("change", [{"stride": 0}, {"stride": 57}, {"crop": 0}, {"scales": []}, {"scales": [0]}])
def test_window__numbers_that_cannot_be_are_refused(change):
    with pytest.raises(UserError, match="Expected a window"):
        window(**change)
