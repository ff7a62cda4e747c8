import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scipy import stats

from depth_anything_train.data.colour import MildColour, PhotometricDistortion, StrongPerturbation
from depth_anything_train.runtime import UserError


@pytest.fixture(scope="module")
def strong():
    return StrongPerturbation()


NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_perturbation__depends_on_image_and_seed_alone(strong):
    first = [strong(NOISE, seed) for seed in range(20)]
    again = [strong(NOISE, seed) for seed in reversed(range(20))][::-1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) > 15


def test_perturbation__is_the_same_in_another_process(strong):
    code = (
        "import sys, numpy as np; from depth_anything_train.data.colour import StrongPerturbation\n"
        "noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)\n"
        "strong = StrongPerturbation(); strong(noise, 99)\n"
        "sys.stdout.buffer.write(b''.join(strong(noise, seed).tobytes() for seed in range(5)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=os.environ)
    assert other.stdout == b"".join(strong(NOISE, seed).tobytes() for seed in range(5))


def test_perturbation__survives_pickling(strong):
    assert (pickle.loads(pickle.dumps(strong))(NOISE, 4) == strong(NOISE, 4)).all()


def test_perturbation__keeps_shape_type_and_input(strong):
    before = NOISE.copy()
    for seed in range(10):
        after = strong(NOISE, seed)
        assert after.shape == NOISE.shape and after.dtype == np.uint8
    assert (before == NOISE).all()


def test_perturbation__jitter_and_blur_are_drawn_independently():
    """Grey noise tells them apart: blur makes it smooth, a jitter of the brightness changes its mean."""
    chain = StrongPerturbation(brightness=0.5, contrast=0.0, saturation=0.0, hue=0.0, blur_sigma=(2.0, 2.0))
    image = np.random.default_rng(1).integers(90, 110, (32, 32, 1), dtype=np.uint8).repeat(3, axis=-1)
    roughness = np.abs(np.diff(image[..., 0].astype(float))).mean()
    table = np.zeros((2, 2))
    for seed in range(600):
        after = chain(image, seed)[..., 0].astype(float)
        jittered = abs(after.mean() - image.mean()) > 0.6
        blurred = np.abs(np.diff(after)).mean() / after.mean() < 0.5 * roughness / image.mean()
        table[int(jittered), int(blurred)] += 1
    assert stats.chi2_contingency(table).pvalue > 0.001
    assert stats.binomtest(int(table[1].sum()), 600, 0.8).pvalue > 0.001
    assert stats.binomtest(int(table[:, 1].sum()), 600, 0.5).pvalue > 0.001


def test_perturbation__switched_off_changes_nothing():
    chain = StrongPerturbation(jitter_p=0.0, blur_p=0.0)
    assert all((chain(NOISE, seed) == NOISE).all() for seed in range(5))


def test_perturbation__grey_on_request():
    grey = StrongPerturbation(jitter_p=0.0, blur_p=0.0, grayscale_p=1.0)(NOISE, 0)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()


def test_perturbation__refuses_impossible_values():
    with pytest.raises(UserError, match=r"data\.perturbation"):
        StrongPerturbation(jitter_p=2.0)


def test_importing_the_package__does_not_import_albumentations():
    code = "import sys, depth_anything_train.data.colour; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mild_colour__is_gamma_brightness_and_a_factor_for_each_channel():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    options = dict(gamma=(1.1, 1.1), brightness=(0.8, 0.8), colour=(0.9, 0.9))
    changed = MildColour(p=1.0, **options)(image, 3)
    expected = np.clip(np.rint(255 * (image / 255) ** 1.1 * 0.8 * 0.9), 0, 255)
    assert np.array_equal(changed, expected)


def test_mild_colour__is_a_function_of_the_seed_and_leaves_its_share_alone():
    image = np.full((4, 4, 3), 100, np.uint8)
    change = MildColour()
    results = [change(image, seed) for seed in range(200)]
    assert all(np.array_equal(change(image, seed), results[seed]) for seed in (0, 7))
    assert 60 < sum(np.array_equal(result, image) for result in results) < 140
    assert len({tuple(result[0, 0]) for result in results}) > 50


def test_mild_colour__ranges_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="data.colour"):
        MildColour(gamma=(1.1, 0.9))


def slow_distortion(image, seed, distortion):
    """One pixel at a time, in floating point between the roundings to bytes."""
    rng = np.random.default_rng(seed)
    chosen = rng.random(4) < distortion.p
    added, hue = rng.uniform(-32, 32), rng.uniform(-36, 36)
    contrast, saturation = rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    first = rng.random() < 0.5
    out = np.empty_like(image)
    for row, column in np.ndindex(image.shape[:2]):
        pixel = image[row, column].astype(float)
        pixel = np.clip(np.rint(pixel + added), 0, 255) if chosen[0] else pixel
        pixel = np.clip(np.rint(pixel * contrast), 0, 255) if chosen[1] and first else pixel
        if chosen[2] or chosen[3]:
            h, s, v = cv2.cvtColor(pixel.astype(np.uint8)[None, None], cv2.COLOR_RGB2HSV)[0, 0].astype(float)
            h = np.rint(h + hue / 2) % 180 if chosen[3] else h
            s = np.clip(np.rint(s * saturation), 0, 255) if chosen[2] else s
            pixel = cv2.cvtColor(np.array([[[h, s, v]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(float)
        pixel = np.clip(np.rint(pixel * contrast), 0, 255) if chosen[1] and not first else pixel
        out[row, column] = pixel
    return out


def test_distortion__equals_a_slow_one_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    distortion = PhotometricDistortion()
    for seed in range(40):
        np.testing.assert_array_equal(distortion(image, seed), slow_distortion(image, seed, distortion))
    assert (PhotometricDistortion(p=0.0)(image, 1) == image).all()
    with pytest.raises(UserError, match="brightness"):
        PhotometricDistortion(brightness=-1)
