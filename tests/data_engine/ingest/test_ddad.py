from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_sets import Prepared, cut, write, write_image

from data_engine.ingest.ddad import Ddad, draw_depth, into_camera
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH = 20, 30
FX, FY, CX, CY = 20.0, 25.0, 15.5, 10.25

# The car drives along the world's x axis, z is up. A camera looks along its z axis, with x right and y down.
AHEAD = {"qw": 0.5, "qx": -0.5, "qy": 0.5, "qz": -0.5}  # camera's z on the world's x
LEFT = {"qw": 2**-0.5, "qx": -(2**-0.5), "qy": 0.0, "qz": 0.0}  # camera's z on the world's y
LEVEL = {"qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0}


def pose(rotation: dict[str, float], x: float, y: float, z: float) -> dict[str, Any]:
    return {"rotation": rotation, "translation": {"x": x, "y": y, "z": z}}


POSES = {
    "LIDAR": pose(LEVEL, 100, 50, 0),
    "CAMERA_01": pose(AHEAD, 102, 50, 1.5),
    "CAMERA_05": pose(LEFT, 100, 51, 1.5),
}

# In the LiDAR's frame: x ahead, y left, z up.
POINTS = np.array(
    [
        [12.0, 0.0, 1.5, 7],  # 10 m straight ahead of the front camera
        [22.0, -4.0, -0.5, 7],  # 20 m ahead of it, 4 m to the right, 2 m below
        [32.0, 0.0, 1.5, 7],  # 30 m ahead, hidden behind the first
        [1.0, 9.0, 1.5, 7],  # behind the front camera; 8 m to the left of the left one, 1 m ahead
        [7.0, 30.0, 1.5, 7],  # outside the front camera's picture
    ]
)


def write_scene(root: Path, folder: str, stamps: tuple[int, ...]) -> str:
    """A scene in the layout of the owners' archive; returns its path below root."""
    names = list(POSES)
    zero = {"fx": 0.0, "fy": 0.0, "cx": 0.0, "cy": 0.0, "skew": 0.0}
    camera = {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "skew": 0.0}
    calibration = {"names": names, "intrinsics": [zero, camera, camera], "extrinsics": [pose(LEVEL, 0, 0, 0)] * 3}
    write(root / folder / "calibration/c0ffee.json", json.dumps(calibration).encode())
    data, samples = [], []
    for stamp in stamps:
        for name in names:
            is_lidar = name == "LIDAR"
            filename = f"point_cloud/LIDAR/{stamp}.npz" if is_lidar else f"rgb/{name}/{stamp}.png"
            content = {"filename": filename, "pose": POSES[name]}
            if is_lidar:
                (root / folder / "point_cloud/LIDAR").mkdir(parents=True, exist_ok=True)
                np.savez_compressed(root / folder / filename, data=POINTS)
            else:
                write_image(root / folder / filename, HEIGHT, WIDTH)
            datum = {"point_cloud" if is_lidar else "image": content}
            data.append({"key": f"{stamp}{name}", "id": {"name": name.lower() if is_lidar else name}, "datum": datum})
        keys = [f"{stamp}{name}" for name in names]
        samples.append({"calibration_key": "c0ffee", "datum_keys": keys, "id": {"name": ""}})
    write(root / folder / "scene_5ce4e.json", json.dumps({"data": data, "samples": samples}).encode())
    return f"{folder}/scene_5ce4e.json"


def write_ddad(root: Path) -> Path:
    scenes = {"0": [write_scene(root, "000000", (1,))], "1": [write_scene(root, "000150", (9, 15))]}
    splits = {number: {"filenames": filenames} for number, filenames in scenes.items()}
    write(root / "ddad.json", json.dumps({"metadata": {"name": "DDAD"}, "scene_splits": splits}).encode())
    return root


def test_ddad__points_of_the_lidar_lie_where_the_front_camera_sees_them(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    prepared = prepare_set("ddad", write_ddad(tmp_path / "ddad"))
    assert list(prepared.samples) == ["000150_CAMERA_01_9", "000150_CAMERA_01_15"]
    depth_m = prepared.depth("000150_CAMERA_01_9")
    # 10 m straight ahead: at (cx, cy). 20 m ahead, 4 m right, 2 m down: at (cx + fx * 4 / 20, cy + fy * 2 / 20).
    found = {(row, column): depth_m[row, column] for row, column in np.argwhere(~np.isnan(depth_m)).tolist()}
    assert found == pytest.approx({(10, 15): 10.0, (12, 19): 20.0}, rel=1e-6)
    assert prepared.samples["000150_CAMERA_01_9"].meta["camera"] == {"fx": FX, "fy": FY, "cx": CX, "cy": CY}
    assert prepared.info["licences"] == {"CC BY-NC-SA 4.0": 2}


def test_ddad__other_cameras_see_other_points(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    prepared = prepare_set("ddad", write_ddad(tmp_path / "ddad"), "dataset.part=train", "dataset.cameras=[CAMERA_05]")
    assert prepared.info["settings"]["cameras"] == ["CAMERA_05"]
    depth_m = prepared.depth("000000_CAMERA_05_1")
    # 8 m to the left of the car, and 1 m ahead, which is on the right of a camera that looks to the left.
    found = {(row, column): depth_m[row, column] for row, column in np.argwhere(~np.isnan(depth_m)).tolist()}
    right = {(10, int(CX + FX / 8)): 8.0, (10, int(CX + FX * 7 / 29)): 29.0}
    assert found == pytest.approx(right, rel=1e-6)


def test_into_camera__agrees_with_matrices_multiplied_by_hand() -> None:
    lidar, camera = POSES["LIDAR"], pose({"qw": 0.9, "qx": 0.1, "qy": -0.3, "qz": 0.2}, 1, 2, 3)
    w, x, y, z = (camera["rotation"][name] / np.sqrt(0.95) for name in ("qw", "qx", "qy", "qz"))
    to_world = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 1],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), 2],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), 3],
            [0, 0, 0, 1],
        ]
    )
    world = np.c_[POINTS[:, :3] + [100, 50, 0], np.ones(len(POINTS))]
    expected = (np.linalg.inv(to_world) @ world.T).T[:, :3]
    np.testing.assert_allclose(into_camera(POINTS[:, :3], lidar, camera), expected, atol=1e-9)


def test_draw_depth__nearest_of_a_pixel_and_nothing_from_behind_or_beside() -> None:
    matrix = np.array([[10.0, 0, 2], [0, 10.0, 2], [0, 0, 1]])
    points = np.array([[0, 0, 5.0], [0, 0, 2.0], [0, 0, 9.0], [0, 0, -1.0], [0, 0, 0.0], [-0.21, 0, 1.0], [1, 0, 1.0]])
    depth_m = draw_depth(points, matrix, 4, 4)
    assert depth_m[2, 2] == 2 and np.count_nonzero(depth_m) == 1


def test_ddad__damaged_and_missing_files_are_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_ddad(tmp_path / "ddad")
    cut(root / "000150/point_cloud/LIDAR/9.npz")
    prepared = prepare_set("ddad", root)
    assert prepared.info["drops"] == {"damaged_label": 1} and list(prepared.samples) == ["000150_CAMERA_01_15"]
    (root / "000150/point_cloud/LIDAR/9.npz").unlink()
    assert prepare_set("ddad", root).info["drops"] == {"unreadable_file": 1}
    np.savez(root / "000150/point_cloud/LIDAR/9.npz", points=POINTS)
    assert prepare_set("ddad", root).info["drops"] == {"damaged_label": 1}


def test_ddad__a_camera_without_calibration_is_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_ddad(tmp_path / "ddad")
    path = root / "000000/calibration/c0ffee.json"
    write(path, path.read_bytes().replace(b"CAMERA_05", b"CAMERA_06"))
    prepared = prepare_set("ddad", root, "dataset.part=train", "dataset.cameras=[CAMERA_01,CAMERA_05]")
    assert prepared.info["drops"] == {"damaged_calibration": 1} and list(prepared.samples) == ["000000_CAMERA_01_1"]


def test_ddad__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root/000150/scene_HASH\.json"):
        Ddad(str(tmp_path)).items()
    with pytest.raises(UserError, match="CAMERA_09"):
        Ddad(str(tmp_path), cameras=["CAMERA_02"])
    root = write_ddad(tmp_path / "ddad")
    write(root / "000150/scene_5ce4e.json", b'{"data": [], "samples": [{"datum_keys": ["x"]}]}')
    with pytest.raises(UserError, match=r"scene_5ce4e\.json is damaged"):
        Ddad(str(root)).items()
