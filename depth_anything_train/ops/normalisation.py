"""Colour statistics that every encoder of the DINOv2 family expects."""

from __future__ import annotations

import torch

from depth_anything_train.types import Image, ImageBytes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(image: ImageBytes) -> Image:
    """Bytes from 0 to 255 to float32 with ImageNet mean 0 and deviation 1; device and layout stay."""
    return normalize_(image.to(torch.float32, copy=True), white=255)


def normalize_(image: Image, *, white: float) -> Image:
    """The same in place, for float32 from 0 to `white`."""
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        # Plain numbers, channel by channel: a tensor of constants would be copied to the device in every step.
        image[:, channel].sub_(white * mean).div_(white * std)
    return image
