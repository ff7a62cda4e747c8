"""DDAD: six cameras around a car, with the points of its LiDARs projected into each of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file, stem
from data_engine.ingest.labelled import Item, LabelledSet, RawPair
from data_engine.ingest.raw_files import pinhole
from data_engine.ingest.raw_labels import RawLabel
from depth_anything_train.data.images import read_header
from depth_anything_train.data.schema import BadSample
from depth_anything_train.files import read_json
from depth_anything_train.runtime import UserError, import_extra

SPLITS = {"val": "1", "train": "0"}
"""Numbers of the splits in ddad.json."""

CAMERAS = ("CAMERA_01", "CAMERA_05", "CAMERA_06", "CAMERA_07", "CAMERA_08", "CAMERA_09")
LIDAR = "LIDAR"


@dataclass(frozen=True)
class Ddad(LabelledSet):
    """DDAD (Dense Depth for Autonomous Driving), train+val archive, https://github.com/TRI-ML/DDAD.

    root/ddad.json
    root/000150/scene_HASH.json
    root/000150/calibration/HASH.json
    root/000150/rgb/CAMERA_01/15616458249936530.png
    root/000150/point_cloud/LIDAR/15616458250027900.npz

    Licence: CC BY-NC-SA 4.0. The label is the depth along the optical axis in metres (float32, 1936 x 1216) of the
    sample's one point cloud, which holds all LiDARs: its points go to the world by the pose of the LiDAR and from
    there into the camera by the camera's own pose, so that the way between the two exposures is accounted for. A
    point fills the pixel that it falls into (u and v rounded down, as the owners do); of several the nearest stays.
    0 is not measured: some 99.5 % of the pixels. Points that the camera cannot see past something nearer are not
    sorted out, nor is anything beyond a range; nothing is cropped. A label takes 9 MB: the front camera of `val`
    some 45 GB.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `val` (50 scenes, 3,950 samples) or `train` (150 scenes, 12,650).
        cameras: CAMERA_01 looks ahead, as evaluations do; 05 to 09 to the sides and behind.
    """

    part: str = "val"
    cameras: Sequence[str] = ("CAMERA_01",)

    source = "ddad"
    licence = "CC BY-NC-SA 4.0"
    PARTS = tuple(SPLITS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if not self.cameras or not set(self.cameras) <= set(CAMERAS):
            raise UserError(f"Expected cameras out of {', '.join(CAMERAS)}, but got {list(self.cameras)}.")

    def find(self, root: Path) -> Iterator[Item]:
        """Images of the cameras in all samples of the part's scenes."""
        if not (root / "ddad.json").is_file():
            return
        splits = read_json(root / "ddad.json", keys={"scene_splits": dict})["scene_splits"]
        for scene in splits.get(SPLITS[self.part], {}).get("filenames", []):
            content = read_json(root / scene, keys=["data", "samples"])
            try:
                yield from self._images(scene.rpartition("/")[0], content)
            except (KeyError, TypeError) as error:
                raise UserError(f"{root / scene} is damaged: expected {error} in it; unpack it again.") from None

    def _images(self, folder: str, scene: Mapping[str, Any]) -> Iterator[Item]:
        data = {datum["key"]: datum for datum in scene["data"]}
        for sample in scene["samples"]:
            sensors = {data[key]["id"]["name"].upper(): data[key]["datum"] for key in sample["datum_keys"]}
            points = sensors[LIDAR]["point_cloud"]
            calibration = f"{folder}/calibration/{sample['calibration_key']}.json"
            for camera in self.cameras:
                image = sensors[camera]["image"]
                path = f"{folder}/{image['filename']}"
                poses = json.dumps([points["pose"], image["pose"]], sort_keys=True)
                name = f"{folder}/{camera}/{Path(stem(path)).name}"
                yield Item(name, path, f"{folder}/{points['filename']}", (calibration, camera, poses))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, points drawn into its camera as float32 npy."""
        calibration, camera, poses = item.extra
        image = read_file(root / item.image)
        header = read_header(image)
        matrix = read_intrinsics(root / calibration, camera)
        points = into_camera(read_points(root / item.label), *json.loads(poses))
        label = RawLabel.from_array(draw_depth(points, matrix, header.height, header.width))
        return RawPair(image, label, {"camera": pinhole(matrix)})


def read_points(path: Path) -> NDArray[np.float64]:
    """Points (N, 3) of a cloud, x, y, z in metres in the LiDAR's frame.

    Raises:
        BadSample: `unreadable_file`, `damaged_label`.
    """
    data = read_file(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return archive["data"][:, :3].astype(np.float64)
    except Exception as error:  # NumPy parses the header as Python: damage shows as almost any error
        raise BadSample("damaged_label", f"Expected points as `data` (N, 3) in {path.name}: {error}.") from None


def read_intrinsics(path: Path, camera: str) -> NDArray[np.float64]:
    """Camera matrix (3, 3) of one camera.

    Raises:
        BadSample: `unreadable_file`, `damaged_calibration`.
    """
    data = read_file(path)
    try:
        content = json.loads(data)
        number = [name.upper() for name in content["names"]].index(camera)
        k = content["intrinsics"][number]
        return np.array([[k["fx"], k.get("skew", 0), k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]], np.float64)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise BadSample("damaged_calibration", f"Expected {camera} in {path.name}; unpack it again.") from None


def into_camera(
    points: NDArray[np.float64], lidar: Mapping[str, Any], camera: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Points (N, 3) of the LiDAR's frame in the camera's: x right, y down, z ahead.

    Args:
        points: in metres.
        lidar, camera: poses, from the sensor's frame to the world's: `rotation` (qw, qx, qy, qz) and `translation`.
    """
    rotate, move = _pose(lidar)
    rotate_camera, move_camera = _pose(camera)
    world = points @ rotate.T + move
    return (world - move_camera) @ rotate_camera


def _pose(pose: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rotation = import_extra("scipy.spatial.transform", extra="ingest").Rotation
    quaternion = [pose["rotation"][name] for name in ("qx", "qy", "qz", "qw")]
    return rotation.from_quat(quaternion).as_matrix(), np.array([pose["translation"][axis] for axis in "xyz"])


def draw_depth(
    points: NDArray[np.float64], matrix: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float32]:
    """Depth map (H, W) of points (N, 3) in the camera's frame; of several in one pixel the nearest, 0 where none is."""
    points = points[points[:, 2] > 0]
    u, v, z = (points @ matrix.T).T
    column, row = np.floor(u / z), np.floor(v / z)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column, z = row[inside].astype(int), column[inside].astype(int), z[inside]
    far_to_near = np.argsort(-z, kind="stable")
    depth_m = np.zeros((height, width), np.float32)
    depth_m[row[far_to_near], column[far_to_near]] = z[far_to_near]  # where two meet, the last one stays
    return depth_m
