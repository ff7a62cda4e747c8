import torch

from depth_anything_train.ops.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalize


def test_normalize__matches_the_definition():
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (image.double() / 255 - mean) / std
    torch.testing.assert_close(normalize(image).double(), expected, rtol=1e-6, atol=1e-6)


def test_normalize__keeps_input_and_layout():
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    before = image.clone()
    normalized = normalize(image)
    assert torch.equal(image, before)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_normalize__does_not_touch_floats_in_place():
    image = torch.full((1, 3, 2, 2), 255.0)
    normalize(image)
    assert (image == 255).all()
