from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from raw_sets import HEIGHT, WIDTH, Prepared, cut, write, write_image, write_png

from data_engine.ingest.sun_rgbd import SunRgbd, turn_back
from depth_anything_train.data.labels import read_png16
from depth_anything_train.runtime import UserError

KINECT, XTION = "kv1/NYUdata/NYU0001", "xtion/sun3ddata/mit_w85_lounge1/0000103-000003431060"
TRAIN = "kv2/kinect2data/000002_2014-05-26"


def metres(offset: float) -> NDArray[np.float64]:
    """1 to 12 m and a hole: what is beyond 8 m must stay."""
    depth_m = offset + np.linspace(1, 12, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).round(3)
    depth_m[3, 3] = 0
    return depth_m


def turned(depth_m: NDArray[np.float64]) -> NDArray[np.uint16]:
    """As the set stores it: millimetres, the three highest bits put behind the others."""
    words = [f"{round(value * 1000):016b}" for value in depth_m.ravel()]
    return np.array([int(word[3:] + word[:3], 2) for word in words], np.uint16).reshape(depth_m.shape)


def write_folder(root: Path, name: str) -> Path:
    folder = root / "SUNRGBD" / name
    write_image(folder / "image" / "0000103.jpg")
    write_image(folder / "fullres" / "0000103.jpg")
    write_png(folder / "depth_bfx" / "0000204.png", turned(metres(0.5)))
    write_png(folder / "depth" / "0000204.png", turned(metres(0)))
    write(folder / "intrinsics.txt", b"518.857901 0.000000 284.582449 \n0 519.469611 208.736166 \n0 0 1 \n")
    return folder


def write_sun(root: Path) -> Path:
    for name in (KINECT, XTION, TRAIN):
        write_folder(root, name)
    owners = "/n/fs/sun3d/data/SUNRGBD/"
    split = root / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    split.parent.mkdir(parents=True)
    test = np.array([[owners + KINECT, owners + XTION + "/"]], object)
    train = np.array([[owners + TRAIN, owners + "kv2/gone"]], object)
    scipy.io.savemat(split, {"alltest": test, "alltrain": train})
    return root


def test_sun_rgbd__test_split_with_metres_and_camera(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sun(tmp_path / "sun")
    prepared = prepare_set("sun_rgbd", root)
    keys = ["kv1_NYUdata_NYU0001", "xtion_sun3ddata_mit_w85_lounge1_0000103-000003431060"]
    assert list(prepared.samples) == keys
    expected = metres(0.5)
    expected[3, 3] = np.nan
    np.testing.assert_allclose(prepared.depth(keys[0]), expected, rtol=1e-6)
    record = prepared.samples[keys[0]]
    assert record.meta["camera"] == {"fx": 518.857901, "fy": 519.469611, "cx": 284.582449, "cy": 208.736166}
    assert (record.meta["scale"], record.meta["unit"]) == (1000, "m")
    assert record.members["jpg"] == (root / "SUNRGBD" / KINECT / "image/0000103.jpg").read_bytes()


def test_sun_rgbd__depth_as_measured_of_every_folder(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    prepared = prepare_set("sun_rgbd", write_sun(tmp_path / "sun"), "dataset.part=all", "dataset.depth=depth")
    assert len(prepared.samples) == 3
    depth_m = prepared.depth("kv2_kinect2data_000002_2014-05-26")
    assert depth_m[-1, -1] == pytest.approx(12) and np.isnan(depth_m[3, 3])


def test_sun_rgbd__missing_and_damaged_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sun(tmp_path / "sun")
    cut(write_folder(root, "kv2/a") / "depth_bfx/0000204.png")
    write_image(write_folder(root, "kv2/b") / "image/second.jpg")
    write(write_folder(root, "kv2/c") / "intrinsics.txt", b"518 0 284")
    (write_folder(root, "kv2/d") / "depth_bfx/0000204.png").unlink()
    prepared = prepare_set("sun_rgbd", root, "dataset.part=all", "max_bad_share=0.7")
    drops = {"damaged_label": 1, "missing_image": 1, "damaged_calibration": 1, "missing_label": 1}
    assert prepared.info["drops"] == drops and len(prepared.samples) == 3
    assert prepare_set("sun_rgbd", root, "dataset.part=train").info["drops"] == {"missing_image": 1}


def test_turn_back__every_value_returns() -> None:
    values = np.arange(65536)
    stored = ((values << 3) & 0xFFFF) | (values >> 13)
    np.testing.assert_array_equal(turn_back(stored.astype(np.uint16)), values)


@pytest.mark.samples
def test_turn_back__a_real_depth_map(samples_folder: Path) -> None:
    stored = read_png16((samples_folder / "sunrgbd/corridor_depthraw.png").read_bytes())
    decoded = cv2.imread(str(samples_folder / "sunrgbd/corridor_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(turn_back(stored), decoded)


def test_sun_rgbd__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root/SUNRGBD/kv1/NYUdata/NYU0001/depth_bfx/NYU0001\.png"):
        SunRgbd(str(tmp_path)).items()
    write_folder(tmp_path, KINECT)
    with pytest.raises(UserError, match=r"official split.*allsplit\.mat"):
        SunRgbd(str(tmp_path)).items()
    with pytest.raises(UserError, match="depth_bfx or depth=depth"):
        SunRgbd(str(tmp_path), depth="raw")
