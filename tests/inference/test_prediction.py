"""Every form of a photograph is the same photograph."""

import io

import numpy as np
import PIL.Image
import pytest

from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.prediction import load_image
from depth_anything_train.runtime import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 20), np.uint8)
COLOURS = RNG.integers(0, 256, (12, 20, 4), np.uint8)


def saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        PIL.Image.fromarray(GREY),
        PIL.Image.fromarray(np.stack([GREY, 255 - GREY], axis=2)),
        PIL.Image.fromarray(COLOURS[..., :3]),
        PIL.Image.fromarray(COLOURS),
        PIL.Image.fromarray(COLOURS[..., :3]).quantize(7),
        PIL.Image.fromarray(GREY > 99),
        PIL.Image.fromarray(GREY.astype(np.uint16) * 251),
    ],
    ids=lambda image: image.mode,
)
def test_load_image__of_pillow_is_that_of_the_file_it_would_save(image):
    pixels = load_image(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (12, 20, 3)
    assert (pixels == load_image(saved(image))).all()


def test_load_image__of_pillow_without_a_pixel_is_refused():
    with pytest.raises(UserError, match=r"got uint8 \(5, 0, 3\)"):
        load_image(PIL.Image.new("RGB", (0, 5)))


def test_load_image__of_pillow_is_upright_as_the_file_is():
    turned = saved(
        PIL.Image.fromarray(np.kron(COLOURS[:3, :5, :3], np.ones((16, 16, 1), np.uint8))), "jpeg", exif=_exif(6)
    )
    pixels = load_image(PIL.Image.open(io.BytesIO(turned)))
    assert pixels.shape == (80, 48, 3)
    assert np.abs(pixels.astype(int) - load_image(turned)).max() <= 3  # two decoders of JPEG


def _exif(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("array", "same"), [(GREY, GREY[..., None]), (GREY[..., None], GREY[..., None]), (COLOURS, COLOURS[..., :3])]
)
def test_load_image__of_arrays_repeats_grey_and_drops_alpha(array, same):
    assert (load_image(array) == np.broadcast_to(same, (12, 20, 3))).all()


def test_load_image__numbers_cut_files_and_other_things_are_refused():
    with pytest.raises(UserError, match="got a tuple"):
        load_image(("a.jpg", "b.jpg"))
    with pytest.raises(UserError, match="mode F"):
        load_image(PIL.Image.fromarray(GREY.astype(np.float32)))
    cut = saved(PIL.Image.fromarray(RNG.integers(0, 256, (99, 99, 3), np.uint8)))[:9999]
    with pytest.raises(BadSample, match="cannot be decoded"):
        load_image(PIL.Image.open(io.BytesIO(cut)))
