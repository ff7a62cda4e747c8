from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from raw_sets import HEIGHT, WIDTH, Prepared, cut, ramp, write, write_image

from data_engine.ingest.sintel import Sintel, read_dpt
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

FOCAL, CX, CY = 1120.0, 3.5, 2.5


def write_dpt(path: Path, depth_m: NDArray[np.float32]) -> None:
    """As depth_write of the set's sdk: tag, width, height, rows."""
    height, width = depth_m.shape
    write(path, struct.pack("<fii", 202021.25, width, height) + depth_m.astype("<f4").tobytes())


def write_cam(path: Path) -> None:
    """As cam_write: tag, intrinsics, extrinsics, all row by row."""
    intrinsics = np.array([[FOCAL, 0, CX], [0, FOCAL, CY], [0, 0, 1]])
    write(path, struct.pack("<f", 202021.25) + intrinsics.tobytes() + np.eye(3, 4).tobytes())


def write_sintel(root: Path) -> Path:
    for scene, frame in (("alley_1", 2), ("alley_1", 10), ("sleeping_1", 1)):
        name = f"{scene}/frame_{frame:04d}"
        for rendering in ("final", "clean"):
            write_image(root / "training" / rendering / f"{name}.png")
        write_dpt(root / "training/depth" / f"{name}.dpt", ramp(frame, 1000))
        write_cam(root / "training/camdata_left" / f"{name}.cam")
    return root


def test_sintel__depth_in_metres_with_its_camera(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sintel(tmp_path / "sintel")
    prepared = prepare_set("sintel", root)
    keys = ["alley_1_frame_0002", "alley_1_frame_0010", "sleeping_1_frame_0001"]
    assert list(prepared.samples) == keys and prepared.info["source"] == "sintel"
    np.testing.assert_allclose(
        prepared.depth(keys[1]), np.linspace(10, 1000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH), 1e-5
    )
    record = prepared.samples[keys[1]]
    assert record.meta["camera"] == {"fx": FOCAL, "fy": FOCAL, "cx": CX, "cy": CY}
    assert record.image == (root / "training/final/alley_1/frame_0010.png").read_bytes()


def test_sintel__the_far_background_stays(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sintel(tmp_path / "sintel")
    background = ramp(1, 2)
    background[0] = 1e6
    write_dpt(root / "training/depth/sleeping_1/frame_0001.dpt", background)
    depth_m = prepare_set("sintel", root).depth("sleeping_1_frame_0001")
    np.testing.assert_allclose(depth_m[0], 1e6, rtol=1e-6)


def test_sintel__clean_pass_has_other_images_and_the_same_depth(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    root = write_sintel(tmp_path / "sintel")
    final, clean = prepare_set("sintel", root), prepare_set("sintel", root, "dataset.part=clean")
    assert list(final.samples) == list(clean.samples)
    for key, record in clean.samples.items():
        assert record.members["depth.npy"] == final.samples[key].members["depth.npy"]
    assert clean.samples["alley_1_frame_0002"].image == (root / "training/clean/alley_1/frame_0002.png").read_bytes()


def test_sintel__damaged_and_missing_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sintel(tmp_path / "sintel")
    cut(root / "training/depth/alley_1/frame_0002.dpt")
    (root / "training/depth/alley_1/frame_0010.dpt").unlink()
    prepared = prepare_set("sintel", root, "max_bad_share=0.7")
    assert prepared.info["drops"] == {"damaged_label": 1, "missing_label": 1}
    cut(root / "training/camdata_left/sleeping_1/frame_0001.cam")
    with pytest.raises(BadSample, match=r"\.cam"):
        sintel = Sintel(str(root))
        sintel.load(sintel.items()[-1])


@pytest.mark.parametrize("data", [b"", b"PI", struct.pack("<fii", 1.0, 1, 1) + bytes(4)])
def test_read_dpt__refuses_what_is_none(data: bytes) -> None:
    with pytest.raises(BadSample, match="202021"):
        read_dpt(data)


@pytest.mark.parametrize("size", [(-1, -1), (0, 0), (2, 1)])
def test_read_dpt__a_size_that_does_not_fit_is_damage(size: tuple[int, int]) -> None:
    with pytest.raises(BadSample, match="wrong number of bytes"):
        read_dpt(b"PIEH" + struct.pack("<ii", *size) + bytes(4))


def test_sintel__an_empty_folder_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training/depth/alley_1/frame_0001\.dpt"):
        Sintel(str(tmp_path)).items()
