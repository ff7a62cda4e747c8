from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from raw_sets import HEIGHT, WIDTH, Prepared, cut, write

from data_engine.ingest.eth3d import Eth3d
from depth_anything_train.runtime import UserError

CAMERAS = f"""# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 2
0 THIN_PRISM_FISHEYE {WIDTH} {HEIGHT} 3411.42 3410.02 4.5 3.25 0.21 0.22 -5e-06 0.0005 -0.158 0.4 -8e-05 0.0008
1 THIN_PRISM_FISHEYE {WIDTH} {HEIGHT} 1000 1001 4 3 1 2 3 4 5 6 7 8
"""
IMAGES = """# Image list with two lines of data per image:
#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME
#   POINTS2D[] as (X, Y, POINT3D_ID)
# Number of images: 2, mean observations per image: 1
1 0.4 0.4 -0.5 0.6 0.2 1.4 3.1 1 dslr_images/DSC_0002.JPG

2 0.4 0.4 -0.5 0.6 0.2 1.4 3.1 0 dslr_images/DSC_0010.JPG
1204.5 33.25 -1 5.0 6.0 17
"""


def scan(first: float) -> NDArray[np.float32]:
    """Metres at every second pixel; infinite between them, where the scanner saw nothing."""
    depth_m = np.linspace(first, 50, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    depth_m[:, ::2] = np.inf
    return depth_m


def write_scene(root: Path, scene: str) -> Path:
    folder = root / scene
    for number in (2, 10):
        name = f"dslr_images/DSC_{number:04d}.JPG"
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        write(folder / "images" / name, cv2.imencode(".jpg", pixels)[1].tobytes())
        write(folder / "ground_truth_depth" / name, scan(number).tobytes())
    write(folder / "dslr_calibration_jpg/cameras.txt", CAMERAS.encode())
    write(folder / "dslr_calibration_jpg/images.txt", IMAGES.encode())
    return folder


def test_eth3d__metres_where_the_scanner_saw_something(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = tmp_path / "eth3d"
    folder = write_scene(root, "courtyard")
    write_scene(root, "terrains")
    prepared = prepare_set("eth3d", root)
    keys = ["courtyard_DSC_0002", "courtyard_DSC_0010", "terrains_DSC_0002", "terrains_DSC_0010"]
    assert list(prepared.samples) == keys and prepared.info["licences"] == {"CC BY-NC-SA 4.0": 4}
    expected = np.linspace(10, 50, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    expected[:, ::2] = np.nan
    np.testing.assert_allclose(prepared.depth("courtyard_DSC_0010"), expected, rtol=1e-6)
    assert prepared.samples["courtyard_DSC_0010"].image == (folder / "images/dslr_images/DSC_0010.JPG").read_bytes()


def test_eth3d__each_photograph_has_its_own_distorted_camera(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    write_scene(tmp_path / "eth3d", "courtyard")
    samples = prepare_set("eth3d", tmp_path / "eth3d").samples
    meta = samples["courtyard_DSC_0010"].meta
    assert meta["camera"] == {"fx": 3411.42, "fy": 3410.02, "cx": 4.0, "cy": 2.75}  # COLMAP's first pixel is at 0.5
    assert meta["camera_model"] == "THIN_PRISM_FISHEYE"
    assert meta["distortion"] == [0.21, 0.22, -5e-06, 0.0005, -0.158, 0.4, -8e-05, 0.0008]
    assert samples["courtyard_DSC_0002"].meta["camera"]["fx"] == 1000


def test_eth3d__damaged_and_missing_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = tmp_path / "eth3d"
    for scene in ("courtyard", "terrains", "pipes", "meadow"):
        write_scene(root, scene)
    cut(root / "terrains/ground_truth_depth/dslr_images/DSC_0002.JPG")
    (root / "terrains/ground_truth_depth/dslr_images/DSC_0010.JPG").unlink()
    write(root / "pipes/dslr_calibration_jpg/images.txt", IMAGES.replace("DSC_0010", "DSC_0011").encode())
    (root / "meadow/dslr_calibration_jpg/cameras.txt").unlink()
    prepared = prepare_set("eth3d", root, "max_bad_share=0.7")
    drops = {"label_size": 1, "missing_label": 1, "damaged_calibration": 1, "unreadable_file": 2}
    assert prepared.info["drops"] == drops and len(prepared.samples) == 3


def test_eth3d__an_empty_folder_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"courtyard/ground_truth_depth/dslr_images/DSC_0286\.JPG"):
        Eth3d(str(tmp_path)).items()
