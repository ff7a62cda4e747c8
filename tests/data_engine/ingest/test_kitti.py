from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from raw_sets import Prepared, cut, write_image, write_png

from data_engine.ingest.kitti import Kitti
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH = 12, 40
CALIBRATION = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
K_02: 9.597910e+02 0 6.960217e+02 0 9.569251e+02 2.241806e+02 0 0 1
P_rect_02: 7.215377e+02 0 6.095593e+02 4.485728e+01 0 7.215377e+02 1.728540e+02 2.163791e-01 0 0 1 2.745884e-03
P_rect_03: 7.215377e+02 0 6.095593e+02 -3.395242e+02 0 7.215377e+02 1.728540e+02 2.199936e+00 0 0 1 2.729905e-03
"""
TRAIN, VAL = "2011_09_26_drive_0001_sync", "2011_10_03_drive_0047_sync"


def stored(frame: int) -> np.ndarray:
    """Metres * 256: as many as the frame's number plus the row; the upper third is empty."""
    depth = np.repeat((frame + np.arange(HEIGHT, dtype=np.uint16))[:, None] * np.uint16(256), WIDTH, axis=1)
    depth[: HEIGHT // 3] = 0
    return depth


def write_frame(root: Path, split: str | None, drive: str, frame: int, camera: str = "image_02") -> None:
    write_image(root / "raw" / drive[:10] / drive / camera / "data" / f"{frame:010d}.png", HEIGHT, WIDTH)
    (root / "raw" / drive[:10] / "calib_cam_to_cam.txt").write_text(CALIBRATION)
    if split:
        folder = root / "data_depth_annotated" / split / drive / "proj_depth" / "groundtruth" / camera
        write_png(folder / f"{frame:010d}.png", stored(frame))


def write_kitti(root: Path) -> Path:
    write_frame(root, "train", TRAIN, 5)
    write_frame(root, "train", TRAIN, 11)
    write_frame(root, "train", TRAIN, 5, "image_03")
    write_frame(root, "val", VAL, 7)
    write_frame(root, None, VAL, 0)
    return root


def eigen_line(drive: str, frame: int, *, annotated: bool = True) -> str:
    depth = f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png" if annotated else "None"
    return f"{drive[:10]}/{drive}/image_02/data/{frame:010d}.png {depth} 721.5377"


def test_kitti__every_annotated_frame_with_metres_and_the_rectified_camera(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    root = write_kitti(tmp_path / "kitti")
    prepared = prepare_set("kitti", root, "pack_labels=false")
    assert list(prepared.samples) == [
        f"{TRAIN}_image_02_0000000005",
        f"{TRAIN}_image_02_0000000011",
        f"{TRAIN}_image_03_0000000005",
        f"{VAL}_image_02_0000000007",
    ]
    record = prepared.samples[f"{VAL}_image_02_0000000007"]
    depth_m = prepared.depth(f"{VAL}_image_02_0000000007")
    assert np.isnan(depth_m[:4]).all() and np.allclose(depth_m[4:], 7 + np.arange(4, HEIGHT)[:, None])
    assert record.meta["camera"] == {"fx": 721.5377, "fy": 721.5377, "cx": 609.5593, "cy": 172.854}
    assert prepared.info["licences"] == {"CC BY-NC-SA 3.0": 4}
    drive = root / "data_depth_annotated/val" / VAL
    assert record.members["depth.png"] == (drive / "proj_depth/groundtruth/image_02/0000000007.png").read_bytes()


def test_kitti__parts_are_the_folders_of_the_benchmark(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    assert [item.name for item in Kitti(str(root), part="val").items()] == [f"{VAL}/image_02/0000000007"]
    assert len(Kitti(str(root), part="train").items()) == 3


def test_kitti__eigen_list_and_frames_never_annotated(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_kitti(tmp_path / "kitti")
    lines = [eigen_line(VAL, 7), eigen_line(VAL, 0, annotated=False), eigen_line(TRAIN, 5)]
    (tmp_path / "eigen.txt").write_text("\n".join(lines))
    prepared = prepare_set("kitti", root, f"dataset.file_list={tmp_path / 'eigen.txt'}")
    assert list(prepared.samples) == [f"{TRAIN}_image_02_0000000005", f"{VAL}_image_02_0000000007"]
    assert prepared.info["drops"] == {"missing_label": 1}
    assert prepared.info["settings"]["file_list"] == "eigen.txt", "the path is of this machine"


def test_kitti__the_list_within_a_part_is_their_intersection(tmp_path: Path) -> None:
    root = write_kitti(tmp_path / "kitti")
    (tmp_path / "eigen.txt").write_text("\n".join([eigen_line(VAL, 7), eigen_line(VAL, 0), eigen_line(TRAIN, 5)]))
    kitti = Kitti(str(root), part="val", file_list=str(tmp_path / "eigen.txt"))
    assert [item.name for item in kitti.items()] == [f"{VAL}/image_02/0000000007"]


@pytest.mark.parametrize(
    "line",
    [
        f"2011_09_26/{TRAIN} 5 l",
        f"2011_09_26/{TRAIN} 0000000005 l",
        f"/data/Kitti/raw_data/2011_09_26/{TRAIN}/image_02/data/0000000005.png /data/Kitti/x/0000000005.png",
    ],
)
def test_kitti__every_published_form_of_list_names_the_same_frame(tmp_path: Path, line: str) -> None:
    root = write_kitti(tmp_path / "kitti")
    (tmp_path / "list.txt").write_text(line)
    (item,) = Kitti(str(root), file_list=str(tmp_path / "list.txt")).items()
    (whole, *_) = Kitti(str(root)).items()
    assert item == whole


def test_kitti__side_r_is_the_right_camera(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"2011_09_26/{TRAIN} 5 r")
    (item,) = Kitti(str(tmp_path), file_list=str(tmp_path / "list.txt")).items()
    assert item.name == f"{TRAIN}/image_03/0000000005"


def test_kitti__damage_is_dropped_and_a_missing_calibration_is_noted(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    root = write_kitti(tmp_path / "kitti")
    damaged = root / "data_depth_annotated/train" / TRAIN / "proj_depth/groundtruth/image_02/0000000011.png"
    cut(damaged)
    (root / "raw/2011_10_03/calib_cam_to_cam.txt").unlink()
    prepared = prepare_set("kitti", root)
    assert prepared.info["drops"] == {"damaged_label": 1} and prepared.info["notes"] == {"camera_unknown": 1}
    assert prepared.samples[f"{VAL}_image_02_0000000007"].meta["camera"] is None
    (root / "raw/2011_09_26/calib_cam_to_cam.txt").write_text(
        CALIBRATION.replace("P_rect_03: 7.215377e+02", "P_rect_03:")
    )
    prepared = prepare_set("kitti", root)
    assert prepared.info["drops"] == {"damaged_label": 1, "damaged_calibration": 1}


def test_kitti__what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root/data_depth_annotated/train"):
        Kitti(str(tmp_path)).items()
    (tmp_path / "list.txt").write_text("office_0003/rgb_00000.jpg")
    with pytest.raises(UserError, match="DRIVE FRAME SIDE"):
        Kitti(str(tmp_path), file_list=str(tmp_path / "list.txt")).items()
