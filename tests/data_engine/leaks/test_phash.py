from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.leaks.phash import correlation, near_pairs, read_square, window_hashes
from data_engine.world import DOMAINS, render
from depth_anything_train.data.schema import BadSample

Picture = NDArray[np.uint8]


def scene(index: int = 0, domain: str = "street-day") -> Picture:
    return render(domain, seed=3, index=index, height=180, width=240).image


def encode(image: Picture, extension: str = ".png", *options: int) -> bytes:
    return cv2.imencode(extension, image[..., ::-1], list(options))[1].tobytes()


def crop(image: Picture, share: float, down: float = 0.5, right: float = 0.5) -> Picture:
    height, width = round(image.shape[0] * share), round(image.shape[1] * share)
    top, left = round((image.shape[0] - height) * down), round((image.shape[1] - width) * right)
    return image[top : top + height, left : left + width]


COPIES: dict[str, Callable[[Picture], bytes]] = {
    "smaller": lambda image: encode(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "squashed": lambda image: encode(cv2.resize(image, (200, 200))),
    "jpeg": lambda image: encode(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 20),
    "cropped": lambda image: encode(crop(image, 0.95, 0, 1)),
    "cropped more": lambda image: encode(crop(image, 0.9, 0.3, 0.6)),
    "all": lambda image: encode(
        cv2.resize(crop(image, 0.95, 1, 0.2), (160, 120)), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 50
    ),
}


def near(a: Picture, b: Picture, max_distance: int = 10) -> list[int]:
    return [pair.distance for pair in near_pairs(window_hashes(a)[None], window_hashes(b)[None], max_distance)]


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("domain", ["street-day", "corridor-day", "pile-day"])
def test_copies__are_near_by_hash_and_correlate_both_ways(name: str, domain: str) -> None:
    image = scene(domain=domain)
    original, copy = read_square(encode(image)), read_square(COPIES[name](image))
    assert near(original, copy) and near(copy, original)
    assert correlation(original, copy) > 0.85


def test_other_images__are_not_near_or_do_not_correlate() -> None:
    squares = [read_square(encode(scene(index, domain))) for domain in sorted(DOMAINS)[:8] for index in range(2)]
    for number, square in enumerate(squares):
        for other in squares[number + 1 :]:
            assert not near(square, other) or correlation(square, other) < 0.8


def test_mirror_image__is_found_by_hashing_it_mirrored_only() -> None:
    square = read_square(encode(scene()))
    mirrored = read_square(encode(scene()[:, ::-1]))
    assert not near(square, mirrored)
    assert near(square, np.ascontiguousarray(mirrored[:, ::-1]))


def test_near_pairs__are_those_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2**63, (count, 3), dtype=np.uint64) for count in (70, 5000))
    slow: dict[tuple[int, int], int] = {}
    for of_a, of_b in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0)):
        bits = np.unpackbits((a[:, None, of_a] ^ b[None, :, of_b]).view(np.uint8), axis=1)
        distances = bits.reshape(len(a), len(b), 64).sum(axis=2, dtype=np.int64)
        for i, j in np.argwhere(distances <= 18).tolist():
            slow[i, j] = min(slow.get((i, j), 64), int(distances[i, j]))
    assert len(slow) > 100
    assert {(pair.a, pair.b): pair.distance for pair in near_pairs(a, b, 18)} == slow


@pytest.mark.parametrize("side", [64, 300, 700, 1400])
def test_read_square__does_not_depend_much_on_the_size_that_is_decoded(side: int) -> None:
    large = cv2.resize(scene(), (1400, 1400), interpolation=cv2.INTER_CUBIC)
    resized = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    square = read_square(encode(resized, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95))
    assert square.shape == (128, 128)
    assert near(square, read_square(encode(large)), 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(np.full((50, 60, 3), 90, np.uint8)), "blank_image"),
        (b"no image", "image_type"),
        (encode(scene())[:-40], "truncated_image"),
    ],
)
def test_read_square__what_cannot_be_hashed_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        read_square(data)
    assert caught.value.reason == reason
