"""What photographs state about their camera."""

import io
import math

import numpy as np
import PIL.Image
import pytest

from depth_anything_train.inference.exif import FOCAL_35MM, HEIGHT, PHOTOGRAPH, WIDTH, stated_focal


def photo(size=(40, 30), kind="jpeg", **stated):
    exif = PIL.Image.Exif()
    names = {"focal": FOCAL_35MM, "width": WIDTH, "height": HEIGHT}
    exif.get_ifd(PHOTOGRAPH).update({names[name]: value for name, value in stated.items()})
    file = io.BytesIO()
    PIL.Image.new("RGB", size).save(file, kind, exif=exif)
    return file.getvalue()


def test_stated_focal__compares_diagonals_with_those_of_film():
    # 43.27 mm are the diagonal of film: with this focal length the diagonal, 50 pixels here, spans 2 atan(1/2).
    assert stated_focal(photo(focal=43)) == pytest.approx(50 * 43 / math.hypot(36, 24))
    assert stated_focal(photo((30, 40), focal=43)) == stated_focal(photo(focal=43))
    assert stated_focal(photo((36, 24), focal=18)) == pytest.approx(18)  # of the aspect of film: 90 degrees across
    assert stated_focal(photo((80, 60), focal=43, width=40, height=30)) == 2 * stated_focal(photo(focal=43))


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_stated_focal__is_found_in_bytes_paths_and_pillow_images(kind, tmp_path):
    data = photo(kind=kind, focal=26)
    (tmp_path / "photo").write_bytes(data)
    for image in (
        data,
        memoryview(data),
        tmp_path / "photo",
        str(tmp_path / "photo"),
        PIL.Image.open(io.BytesIO(data)),
    ):
        assert stated_focal(image) == pytest.approx(50 * 26 / math.hypot(36, 24))


@pytest.mark.parametrize(
    "image",
    [
        photo(),
        photo(focal=0),
        photo((40, 20), focal=26, width=40, height=30),  # cropped afterwards
        photo(focal=26).replace(b"Exif", b"Exit"),
        photo(focal=26)[:60],
        b"no image",
        "no/such/file.jpg",
        np.zeros((4, 4, 3), np.uint8),
    ],
    ids=["nothing", "unknown", "cropped", "damaged", "cut", "text", "missing", "array"],
)
def test_stated_focal__is_none_where_it_is_not_stated(image):
    assert stated_focal(image) is None


def test_stated_focal__of_a_real_photograph_agrees_with_its_lens_and_sensor(samples_folder):
    """It states 38 mm, and 7.9 mm of lens; its 1/1.8 inch sensor is 7.18 mm wide."""
    path = samples_folder / "photos" / "azcv_Rome.jpg"
    with PIL.Image.open(path) as image:
        across = math.degrees(2 * math.atan(max(image.size) / 2 / stated_focal(path)))
    assert across == pytest.approx(math.degrees(2 * math.atan(7.18 / 2 / 7.9)), abs=0.5)
