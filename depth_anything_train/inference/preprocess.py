"""From a photograph of any size to what the network takes, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from depth_anything_train.data.images import MAX_NETWORK_PIXELS
from depth_anything_train.data.schema import BadSample
from depth_anything_train.ops.normalisation import IMAGENET_MEAN, IMAGENET_STD
from depth_anything_train.runtime import UserError
from depth_anything_train.types import Disparity, Image

Size = int | Sequence[int]
"""Shorter side in pixels, the aspect kept; or (height, width), to which an image is stretched."""

MOST_TOGETHER = 2**26  # pixels of photographs that are on a GPU at once


def plain_size(size: Size) -> int | list[int]:
    """The same size in Python's own numbers, which JSON can hold; NumPy's are as good here."""
    return np.asarray(size).tolist()


def network_size(height: int, width: int, size: Size, *, patch: int = 14) -> tuple[int, int]:
    """Height and width at which the network sees an image of `height` x `width`.

    The shorter side becomes `size`, the other keeps the aspect; each is rounded to the nearest multiple of `patch`,
    and up where rounding down would fall below `size`. A pair is taken as it is: metric models of V1 were trained so.

    Raises:
        UserError: `size` is no size, below one patch or no multiple of it where it has to be.
        BadSample: `extreme_aspect`, the image is so narrow that its other side would be enormous.
    """
    size = plain_size(size)
    if not isinstance(size, int):
        sides = size if isinstance(size, list) else []
        if len(sides) != 2 or any(not isinstance(side, int) or side < patch or side % patch for side in sides):
            raise UserError(
                f"Expected a size as a whole number, or [height, width] in multiples of {patch} pixels, but got "
                f"{size!r}."
            )
        if math.prod(sides) > MAX_NETWORK_PIXELS:
            raise UserError(f"Expected a size of at most {MAX_NETWORK_PIXELS:,} pixels together, but got {size!r}.")
        return sides[0], sides[1]
    if size < patch:
        raise UserError(f"Expected a size of at least one patch ({patch} pixels), but got {size}.")
    if size**2 > MAX_NETWORK_PIXELS:
        raise UserError(f"Expected a size of at most {math.isqrt(MAX_NETWORK_PIXELS)} pixels, but got {size}.")
    scale = size / min(height, width)
    sides = [round(scale * side / patch) * patch for side in (height, width)]
    new_height, new_width = (side if side >= size else side + patch for side in sides)
    if new_height * new_width > MAX_NETWORK_PIXELS:
        raise BadSample(
            "extreme_aspect",
            f"An image of {width} x {height} pixels would become {new_width} x {new_height} for the network; "
            "crop it to a less extreme aspect or choose a smaller size.",
        )
    return new_height, new_width


def prepare(images: list[NDArray[np.uint8]], size: Size, *, patch: int = 14, fast: bool = False) -> Image:
    """RGB images (H, W, 3) of one common network size -> network input (B, 3, h, w).

    Bicubic without antialiasing and in floating point, as the released models were trained and run. With `fast` it is
    done in 8 bits: a third of the time, a quarter of a grey level off on average, and where cubic interpolation would
    overshoot black or white it stops there.
    """
    height, width = network_size(images[0].shape[0], images[0].shape[1], size, patch=patch)
    batch = np.empty((len(images), height, width, 3), np.float32)
    for image, resized in zip(images, batch, strict=True):
        if fast:
            resized[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
            resized /= 255
        else:
            exact = np.divide(image, np.float32(255), dtype=np.float32)
            cv2.resize(exact, (width, height), dst=resized, interpolation=cv2.INTER_CUBIC)
    batch -= np.array(IMAGENET_MEAN, np.float32)
    batch /= np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def resize_on(
    device: torch.device, images: Sequence[NDArray[np.uint8] | NDArray[np.float32]], height: int, width: int
) -> torch.Tensor:
    """RGB images (H, W, 3) of any sizes -> (B, 3, height, width) from 0 to 1, resized on `device`.

    Floats have their size already. As exact as `prepare`: bicubic without antialiasing and in floating point; places of
    samples are rounded otherwise.
    """
    parts, order = [], []
    alike: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for number, image in enumerate(images):
        alike.setdefault((image.shape, image.dtype == np.uint8), []).append(number)
    for (shape, bytes_), numbers in alike.items():
        together = max(MOST_TOGETHER // (shape[0] * shape[1]), 1)
        for start in range(0, len(numbers), together):
            chosen = numbers[start : start + together]
            pixels = torch.empty(
                (len(chosen), *shape), dtype=torch.uint8 if bytes_ else torch.float32, pin_memory=device.type == "cuda"
            )
            np.stack([images[number] for number in chosen], out=pixels.numpy())
            there = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
            parts.append(F.interpolate(there.float().div_(255), (height, width), mode="bicubic") if bytes_ else there)
            order += chosen
    places = torch.tensor(order).argsort().to(device)
    return torch.cat(parts)[places]


def resize_map(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resize of a map (h, w) to (height, width), pixel centres kept in place."""
    tensor: Disparity = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
