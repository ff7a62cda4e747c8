"""Hypersim: photorealistic renderings of indoor scenes, with each scene's own camera."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_engine.ingest.base import read_file
from data_engine.ingest.labelled import Item, LabelledSet, RawPair, find_names, pair_up
from data_engine.ingest.raw_files import pinhole, require_file
from data_engine.ingest.raw_labels import RawLabel, read_h5
from depth_anything_train.runtime import UserError

SPLIT_FILE, CAMERA_FILE = "metadata_images_split_scene_v1.csv", "metadata_camera_parameters.csv"

HALF_VIEW = math.tan(math.radians(60) / 2)
"""Half the width of an image at depth 1: a horizontal field of view of 60 degrees, 886.81 pixels at a width of 1024."""


@dataclass(frozen=True)
class Hypersim(LabelledSet):
    """Hypersim, 74,619 images of indoor scenes, https://github.com/apple/ml-hypersim.

    root/ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg
    root/ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5
    root/metadata_images_split_scene_v1.csv       from evermotion_dataset/analysis of the repository, for a split
    root/metadata_camera_parameters.csv           from contrib/mikeroberts3000 of the repository, for exact cameras
    Nothing else of the 1.9 TB is needed; contrib/99991 of the repository downloads single files.

    Licence: CC BY-SA 3.0. The files hold the distance along each pixel's ray in metres (float16); the label is depth
    along the optical axis, float32. The rays are those of the scene's camera, whose image plane some scenes shift or
    tilt. Without the camera file every scene counts as the common pinhole (focal length 886.81 at 1024 x 768), which is
    noted as `assumed_camera`. NaN is where a ray meets nothing, often the sky behind a window, and is invalid. What the
    owners left out of their split (people, logos) is not taken, unless part=all.

    Args:
        root, count, seed: as in `LabelledSet`.
        part: `train`, `val` or `test` of the owners' split by scene; `all` are the images that are there.
    """

    part: str = "train"

    source = "hypersim"
    licence = "CC BY-SA 3.0"
    PARTS = ("train", "val", "test", "all")

    def find(self, root: Path) -> Iterator[Item]:
        """Images of the part; `extra` is the matrix of the scene's camera, row by row, where it is known."""
        images = find_names(root, "*/images/scene_*_final_preview/frame.*.tonemap.jpg")
        labels = find_names(root, "*/images/scene_*_geometry_hdf5/frame.*.depth_meters.hdf5")
        if not images and not labels:
            return
        wanted = None if self.part == "all" else read_split(root / SPLIT_FILE, self.part)
        cameras = read_cameras(root / CAMERA_FILE) if (root / CAMERA_FILE).exists() else {}
        for item in pair_up(images, labels):
            if wanted is None or item.name in wanted:
                yield item._replace(extra=cameras.get(item.name.partition("/")[0], ()))

    def read(self, root: Path, item: Item) -> RawPair:
        """Image as it is, depth as float32 npy."""
        distance_m = read_h5(root / item.label, "dataset")
        to_ray = np.array(item.extra, np.float64).reshape(3, 3) if item.extra else common_camera(*distance_m.shape)
        label = RawLabel.from_array(depth_along_axis(distance_m, to_ray))
        notes = {**label.notes, **({} if item.extra else {"assumed_camera": 1})}
        meta = {"camera": intrinsics(to_ray, *distance_m.shape)}
        return RawPair(read_file(root / item.image), replace(label, notes=notes), meta)


def read_split(path: Path, part: str) -> set[str]:
    """Names (SCENE/CAMERA/FRAME) of the released images of a part.

    Raises:
        UserError: the file is missing or another one.
    """
    return {
        f"{row['scene_name']}/{row['camera_name']}/{int(row['frame_id']):04d}"
        for row in read_rows(path, ("scene_name", "camera_name", "frame_id", "split_partition_name"))
        if row["split_partition_name"] == part and row.get("included_in_public_release", "True") == "True"
    }


def read_cameras(path: Path) -> dict[str, tuple[str, ...]]:
    """The nine numbers of `M_cam_from_uv`, row by row, by scene.

    Raises:
        UserError: the file is another one.
    """
    columns = tuple(f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3))
    return {row["scene_name"]: tuple(row[column] for column in columns) for row in read_rows(path, columns)}


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of one of the repository's tables.

    Raises:
        UserError: it is missing or lacks a column.
    """
    with open(require_file(path, what="a table of Hypersim's repository"), newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise UserError(f"Expected the columns {', '.join(columns)} in {path}; download it again.")
        return list(reader)


def common_camera(height: int, width: int) -> NDArray[np.float64]:
    """The camera of most scenes, as `M_cam_from_uv` states one."""
    return np.diag([HALF_VIEW, HALF_VIEW * height / width, -1.0])


def depth_along_axis(distance_m: NDArray[Any], to_ray: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance along each pixel's ray to depth along the optical axis.

    Args:
        distance_m: (H, W).
        to_ray: (3, 3), takes (u, v, 1) to a ray of the camera, which looks along -z with y up; u goes from -1 at the
            left edge of the image to 1 at the right one, v from -1 at the bottom to 1 at the top.
    """
    height, width = distance_m.shape
    u = (2 * np.arange(width) + 1) / width - 1
    v = 1 - (2 * np.arange(height) + 1) / height
    rays = np.stack(np.broadcast_arrays(u, v[:, None], 1.0), axis=-1) @ to_ray.T
    return distance_m * (-rays[..., 2] / np.linalg.norm(rays, axis=-1))


def intrinsics(to_ray: NDArray[np.float64], height: int, width: int) -> dict[str, float] | None:
    """The pinhole that `to_ray` is, or None where the image plane is tilted and no pinhole in pixels describes it."""
    straight = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)
    if not np.allclose(to_ray[~straight], 0) or not np.isclose(to_ray[2, 2], -1):
        return None
    (across, _, right), (_, up, top), _ = to_ray
    matrix = [
        [width / 2 / across, 0, width / 2 * (1 - right / across)],
        [0, height / 2 / up, height / 2 * (1 + top / up)],
    ]
    return pinhole(matrix, first_pixel=0.5)
