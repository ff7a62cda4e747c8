from __future__ import annotations

from pathlib import Path

import numpy as np
from raw_sets import PrepareSet, cut, ramp, write, write_image, write_pfm

from data_engine.ingest.blendedmvs import BlendedMVS, read_camera

PROJECT, VALIDATION_PROJECT = "5bfe5ae0fe0ea555e6a969ca", "59817e4a1bd4b175e7038d19"

CAMERA = b"""extrinsic
0.1 0.2 0.3 0.4
0.5 0.6 0.7 0.8
0.9 1.0 1.1 1.2
0.0 0.0 0.0 1.0

intrinsic
586.5 0.0 384.25
0.0 587.5 288.75
0.0 0.0 1.0

3.5 0.01 128 9.5
"""


def make(root: Path, project: str = PROJECT, count: int = 3) -> Path:
    for number in range(count):
        folder = root / project
        write_image(folder / f"blended_images/{number:08d}.jpg")
        write_image(folder / f"blended_images/{number:08d}_masked.jpg")
        depth = ramp(1, 2) + number
        depth[:, :3] = 0
        write_pfm(folder / f"rendered_depth_maps/{number:08d}.pfm", depth)
        write(folder / f"cams/{number:08d}_cam.txt", CAMERA)
    write(root / project / "cams/pair.txt", b"3\n")
    return root


def test_blendedmvs__depth_is_upright_and_the_background_invalid(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "raw")
    cut(root / PROJECT / "rendered_depth_maps/00000001.pfm")
    (root / PROJECT / "cams/00000002_cam.txt").unlink()
    prepared = prepare_set("blendedmvs", root)
    first, third = f"{PROJECT}_00000000", f"{PROJECT}_00000002"
    assert list(prepared.samples) == [first, third] and prepared.info["drops"] == {"damaged_label": 1}
    depth = prepared.depth(third)
    assert np.isnan(depth[:, :3]).all()
    np.testing.assert_allclose(depth[:, 3:], ramp(3, 4)[:, 3:], rtol=1e-6)
    image = (root / PROJECT / "blended_images/00000000.jpg").read_bytes()
    assert prepared.samples[first].image == image
    meta = prepared.samples[first].meta
    assert (meta["quantity"], meta["unit"], meta["licence"]) == ("depth", "unknown", "CC BY 4.0")
    assert meta["camera"] == {"fx": 586.5, "fy": 587.5, "cx": 384.25, "cy": 288.75}
    assert prepared.samples[third].meta["camera"] is None


def test_blendedmvs__an_image_without_its_mesh_is_dropped(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / "raw")
    write_pfm(root / PROJECT / "rendered_depth_maps/00000002.pfm", np.zeros((6, 8), np.float32))
    assert prepare_set("blendedmvs", root).info["drops"] == {"no_valid_pixel": 1}


def test_blendedmvs__validation_projects_are_the_owners(tmp_path: Path) -> None:
    root = str(make(make(tmp_path), VALIDATION_PROJECT, count=1))
    counts = {part: len(BlendedMVS(root, part=part).items()) for part in ("all", "train", "val")}
    assert counts == {"all": 4, "train": 3, "val": 1}
    assert BlendedMVS(root, part="val").items()[0].name == f"{VALIDATION_PROJECT}/00000000"


def test_blendedmvs__root_may_be_one_project(tmp_path: Path) -> None:
    for project, part in ((PROJECT, "train"), (VALIDATION_PROJECT, "val")):
        root = make(tmp_path / project, project) / project
        assert len(BlendedMVS(str(root), part=part).items()) == 3


def test_blendedmvs__archives_may_be_unpacked_side_by_side(tmp_path: Path, prepare_set: PrepareSet) -> None:
    for archive, project in (("BlendedMVS", VALIDATION_PROJECT), ("BlendedMVS++", PROJECT)):
        make(tmp_path / "raw" / archive, project, count=1)
    prepared = prepare_set("blendedmvs", tmp_path / "raw", "dataset.part=train")
    (key,) = prepared.samples
    assert key == f"BlendedMVS___{PROJECT}_00000000" and prepared.samples[key].meta["camera"]["fx"] == 586.5


def test_read_camera__gives_none_for_what_is_no_camera() -> None:
    for text in (b"", CAMERA[:100], CAMERA.replace(b"586.5", b"wide"), CAMERA.replace(b"intrinsic", b"")):
        assert read_camera(text) is None
