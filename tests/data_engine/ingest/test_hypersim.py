from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from raw_sets import PrepareSet, cut, write, write_h5, write_image

from data_engine.ingest.hypersim import Hypersim, common_camera, depth_along_axis, intrinsics
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH = 12, 16
FOCAL = 886.81 * WIDTH / 1024
"""The focal length that the owners state for 1024 pixels, at this width."""

SPLIT = """scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name
ai_001_001,cam_00,0,True,,train
ai_001_001,cam_00,1,True,,train
ai_001_001,cam_00,2,False,people,
ai_001_001,cam_01,3,True,,train
ai_002_001,cam_00,0,True,,test
ai_009_009,cam_00,0,True,,test
"""


def distance_to_wall(depth_m: float, focal: float, shift_x: float = 0, shift_y: float = 0) -> NDArray[np.float64]:
    """Distance of each pixel's ray to a wall that faces the camera, pixel by pixel from Pythagoras.

    The principal point is the middle of the image and `shift` pixels to the right and down.
    """
    distance = np.empty((HEIGHT, WIDTH))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x = (column + 0.5 - WIDTH / 2 - shift_x) / focal
            y = (row + 0.5 - HEIGHT / 2 - shift_y) / focal
            distance[row, column] = depth_m * (1 + x * x + y * y) ** 0.5
    return distance


def make(root: Path, scene: str = "ai_001_001", frames: tuple[str, ...] = ("00/0000", "00/0001", "01/0003")) -> Path:
    for name in frames:
        camera, frame = name.split("/")
        write_image(root / scene / f"images/scene_cam_{camera}_final_preview/frame.{frame}.tonemap.jpg", HEIGHT, WIDTH)
        write_image(root / scene / f"images/scene_cam_{camera}_final_preview/frame.{frame}.color.jpg", HEIGHT, WIDTH)
        distance_m = distance_to_wall(3, FOCAL).astype(np.float16)
        distance_m[0, 0] = np.nan
        folder = root / scene / f"images/scene_cam_{camera}_geometry_hdf5"
        write_h5(folder / f"frame.{frame}.depth_meters.hdf5", dataset=distance_m)
        write_h5(folder / f"frame.{frame}.semantic.hdf5", dataset=distance_m)
    return root


def write_cameras(root: Path, **scenes: NDArray[np.float64]) -> None:
    columns = [f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)]
    rows = [",".join(["scene_name", "use_camera_physical", *columns])]
    rows += [",".join([scene, "True", *map(str, matrix.ravel())]) for scene, matrix in scenes.items()]
    write(root / "metadata_camera_parameters.csv", "\n".join(rows).encode())


def test_hypersim__distance_along_the_ray_becomes_depth(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "scenes")
    write(root / "metadata_images_split_scene_v1.csv", SPLIT.encode())
    cut(root / "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0001.depth_meters.hdf5")
    prepared = prepare_set("hypersim", root)
    key = "ai_001_001_cam_01_0003"
    assert list(prepared.samples) == ["ai_001_001_cam_00_0000", key]
    assert prepared.info["drops"] == {"damaged_label": 1}
    assert prepared.info["notes"] == {"assumed_camera": 2, "not_finite_pixels": 2, "constant_label": 2}
    depth_m = prepared.depth(key)
    assert np.isnan(depth_m[0, 0])
    np.testing.assert_allclose(depth_m.ravel()[1:], 3, rtol=1e-3)  # float16 in the file
    record = prepared.samples[key]
    image = root / "ai_001_001/images/scene_cam_01_final_preview/frame.0003.tonemap.jpg"
    assert record.image == image.read_bytes()
    camera = record.meta["camera"]
    assert camera == pytest.approx({"fx": FOCAL, "fy": FOCAL, "cx": 7.5, "cy": 5.5}, rel=1e-5)
    assert (record.meta["unit"], record.meta["licence"]) == ("m", "CC BY-SA 3.0")


def test_hypersim__the_camera_of_each_scene_is_used_where_its_table_is(tmp_path: Path, prepare_set: PrepareSet) -> None:
    focal, shift_x, shift_y = 20.0, 1.5, -2.5
    root = make(tmp_path / "scenes", frames=("00/0000",))
    distance_m = distance_to_wall(5, focal, shift_x, shift_y).astype(np.float32)
    write_h5(root / "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5", dataset=distance_m)
    across, up = WIDTH / 2 / focal, HEIGHT / 2 / focal
    matrix = np.array([[across, 0, -shift_x / focal], [0, up, shift_y / focal], [0, 0, -1]])
    write_cameras(root, ai_001_001=matrix, ai_001_002=common_camera(HEIGHT, WIDTH))
    prepared = prepare_set("hypersim", root, "dataset.part=all")
    (key,) = prepared.samples
    np.testing.assert_allclose(prepared.depth(key), 5, rtol=1e-5)
    expected = {"fx": focal, "fy": focal, "cx": 7.5 + shift_x, "cy": 5.5 + shift_y}
    assert prepared.samples[key].meta["camera"] == pytest.approx(expected)
    assert prepared.info["notes"] == {"constant_label": 1}


def test_depth_along_axis__holds_for_a_tilted_image_plane() -> None:
    tilted = np.array([[0.6, 0.01, 0.02], [0.0, 0.45, -0.03], [0.05, -0.1, -1.1]])
    distance_m = np.full((HEIGHT, WIDTH), 7.0)
    depth_m = depth_along_axis(distance_m, tilted)
    for row, column in ((0, 0), (3, 12), (11, 15)):
        u, v = (column + 0.5) / WIDTH * 2 - 1, 1 - (row + 0.5) / HEIGHT * 2
        x, y, z = (sum(m * c for m, c in zip(line, (u, v, 1), strict=True)) for line in tilted)
        assert depth_m[row, column] == pytest.approx(7 * -z / (x * x + y * y + z * z) ** 0.5)
    assert intrinsics(tilted, HEIGHT, WIDTH) is None


def test_common_camera__has_the_focal_length_that_the_owners_state() -> None:
    camera = intrinsics(common_camera(768, 1024), 768, 1024)
    assert camera == pytest.approx({"fx": 886.81, "fy": 886.81, "cx": 511.5, "cy": 383.5}, abs=1e-3)


def test_hypersim__parts_are_those_of_the_split(tmp_path: Path) -> None:
    root = make(make(tmp_path, frames=("00/0000", "00/0001", "00/0002", "01/0003")), "ai_002_001", frames=("00/0000",))
    with pytest.raises(UserError, match=r"table of Hypersim's repository in .*metadata_images_split_scene_v1.csv"):
        Hypersim(str(root)).items()
    write(root / "metadata_images_split_scene_v1.csv", SPLIT.encode())
    names = {part: [item.name for item in Hypersim(str(root), part=part).items()] for part in ("train", "test", "all")}
    train = ["ai_001_001/cam_00/0000", "ai_001_001/cam_00/0001", "ai_001_001/cam_01/0003"]
    assert names["train"] == train and names["test"] == ["ai_002_001/cam_00/0000"] and len(names["all"]) == 5


def test_hypersim__another_table_is_told(tmp_path: Path) -> None:
    root = make(tmp_path)
    write(root / "metadata_images_split_scene_v1.csv", b"scene_name,frame\nai_001_001,0\n")
    with pytest.raises(UserError, match=r"Expected the columns .*split_partition_name"):
        Hypersim(str(root)).items()
