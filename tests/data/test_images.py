from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from depth_anything_train.data.images import ImageHeader, decode_image, read_header, reduced_grey
from depth_anything_train.data.schema import BadSample

HEIGHT, WIDTH = 40, 60


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours, so that JPEG keeps them."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


VARIANTS = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "png": ("PNG", {}),
    "webp lossy": ("WEBP", {"quality": 95}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "webp extended": ("WEBP", {"lossless": True, "exif": Image.Exif().tobytes()}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_decode_image__returns_the_rgb_pixels(name: str) -> None:
    kind, options = VARIANTS[name]
    decoded = decode_image(encoded(Image.fromarray(picture()), kind, **options))
    assert decoded.shape == (HEIGHT, WIDTH, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - picture()).mean() < (0.01 if "png" in name or "less" in name else 6)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (257, 3)])
def test_read_header__agrees_with_pillow(name: str, size: tuple[int, int]) -> None:
    kind, options = VARIANTS[name]
    header = read_header(encoded(Image.new("RGB", size), kind, **options))
    assert header == ({"JPEG": "jpg"}.get(kind, kind.lower()), size[1], size[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image__turns_the_image_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(Image.fromarray(picture()), kind, exif=exif.tobytes(), **({"quality": 98} if kind != "PNG" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode_image(data)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("reduce_to", "factor"), [(40, 1), (21, 1), (20, 2), (10, 4), (6, 4), (5, 8), (1, 8)])
def test_decode_image__a_large_jpeg_is_decoded_smaller_but_no_smaller_than_asked(
    mode: str, reduce_to: int, factor: int
) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # upright it stands
    image = Image.fromarray(picture()).convert(mode)
    decoded = decode_image(encoded(image, "JPEG", quality=98, exif=exif.tobytes()), reduce_to=reduce_to)
    assert decoded.shape == (-(-WIDTH // factor), HEIGHT // factor, 3)
    expected = image.convert("RGB").reduce(factor).rotate(-90, expand=True)
    assert np.abs(decoded.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("shorter", "flag"),
    [
        (127, cv2.IMREAD_GRAYSCALE),
        (255, cv2.IMREAD_GRAYSCALE),
        (256, cv2.IMREAD_REDUCED_GRAYSCALE_2),
        (512, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (1023, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (1024, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    ],
)
def test_reduced_grey__is_the_smallest_size_that_keeps_what_is_asked(shorter: int, flag: int) -> None:
    assert reduced_grey(ImageHeader("jpg", shorter, 2000), 128) == reduced_grey(ImageHeader("png", 2000, shorter), 128)
    assert reduced_grey(ImageHeader("jpg", shorter, 2000), 128) == flag


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decode_image__only_jpegs_are_decoded_smaller(kind: str) -> None:
    assert decode_image(encoded(Image.fromarray(picture()), kind), reduce_to=1).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")],
)
def test_decode_image__any_mode_becomes_rgb(mode: str, kind: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    decoded = decode_image(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(decoded.astype(int) - np.asarray(image.convert("RGB"))).mean() < 4


def test_decode_image__sixteen_bits_become_eight() -> None:
    grey = picture()[..., 0]
    decoded = decode_image(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))
    assert np.abs(decoded.astype(int) - grey[..., None]).max() <= 1


@pytest.mark.parametrize("name", VARIANTS)
def test_decode_image__finds_every_cut(name: str) -> None:
    kind, options = VARIANTS[name]
    data = encoded(Image.fromarray(picture()), kind, **options)
    for length in {*range(0, len(data), 7), len(data) - 1, len(data) - 2}:
        with pytest.raises(BadSample) as caught:
            decode_image(data[:length])
        assert caught.value.reason in ("truncated_image", "image_type")


def test_decode_image__end_of_a_thumbnail_is_no_end() -> None:
    thumbnail = encoded(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = encoded(Image.fromarray(picture()), "JPEG")
    data = data[:2] + segment + data[2:]
    assert decode_image(data).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(BadSample, match="cut off"):
        decode_image(data[:-20])


def test_decode_image__bytes_behind_a_jpeg_do_no_harm() -> None:
    data = encoded(Image.fromarray(picture()), "JPEG")
    np.testing.assert_array_equal(decode_image(data + b"maker notes"), decode_image(data))


def test_read_header__refuses_a_bomb_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"
    with pytest.raises(BadSample, match="30000 x 30000") as caught:
        decode_image(data)
    assert caught.value.reason == "image_size"


class Payload:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_decode_image__never_runs_what_poses_as_an_image(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", b"x")
    for data in (pickle.dumps(Payload(tmp_path / "ran")), archive.getvalue(), b"", b"<svg/>", b"GIF89a" + bytes(50)):
        with pytest.raises(BadSample) as caught:
            decode_image(data)
        assert caught.value.reason == "image_type"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x08\0\0\0WEBP"])
def test_decode_image__noise_behind_a_magic_is_a_named_error(start: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        with pytest.raises(BadSample):
            decode_image(start + rng.bytes(200))


def test_decode_image__damaged_pixels_of_a_png_are_found() -> None:
    data = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadSample) as caught:
        decode_image(bytes(data))
    assert caught.value.reason == "undecodable_image"
