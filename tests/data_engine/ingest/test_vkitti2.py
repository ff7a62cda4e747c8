from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_sets import HEIGHT, WIDTH, PrepareSet, cut, write_image, write_png

from data_engine.ingest.vkitti2 import VirtualKitti2

CENTIMETRES = np.arange(100, 100 + HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 7
CENTIMETRES[0] = 65535  # sky
CENTIMETRES[1, 0] = 65534  # the farthest that is none


def make(rgb: Path, depth: Path, scene: str = "Scene01/clone", count: int = 3) -> None:
    for number in range(count):
        for camera in ("Camera_0", "Camera_1"):
            write_image(rgb / scene / f"frames/rgb/{camera}/rgb_{number:05d}.jpg")
            write_png(depth / scene / f"frames/depth/{camera}/depth_{number:05d}.png", CENTIMETRES + np.uint16(0))


def test_vkitti2__centimetres_become_metres_and_the_farthest_code_sky(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = tmp_path / "raw"
    make(root, root)
    make(root, root, "Scene20/15-deg-left", count=1)
    cut(root / "Scene01/clone/frames/rgb/Camera_0/rgb_00001.jpg")
    prepared = prepare_set("vkitti2", root, "pack_labels=false")
    keys = ["Scene01_clone_00000", "Scene01_clone_00002", "Scene20_15-deg-left_00000"]
    assert list(prepared.samples) == keys and prepared.info["drops"] == {"truncated_image": 1}
    depth_m, sky = prepared.depth(keys[0]), prepared.sky(keys[0])
    assert sky[0].all() and not sky[1:].any() and np.isnan(depth_m[0]).all()
    assert depth_m[1, 0] == pytest.approx(655.34)
    np.testing.assert_allclose(depth_m[2:], CENTIMETRES[2:] / 100, rtol=1e-6)
    record = prepared.samples[keys[0]]
    label = root / "Scene01/clone/frames/depth/Camera_0/depth_00000.png"
    assert record.members["depth.png"] == label.read_bytes()
    assert record.meta["camera"] == {"fx": 725.0087, "fy": 725.0087, "cx": 620.5, "cy": 187}
    assert (record.meta["unit"], record.meta["licence"]) == ("m", "CC BY-NC-SA 3.0")


def test_vkitti2__each_archive_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    make(tmp_path / "vkitti_2.0.3_rgb", tmp_path / "vkitti_2.0.3_depth", count=2)
    items = VirtualKitti2(str(tmp_path)).items()
    assert [item.name for item in items] == ["Scene01/clone/00000", "Scene01/clone/00001"]
    assert all(item.image and item.label for item in items)
