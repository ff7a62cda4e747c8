from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from raw_sets import Prepared, write_image, write_png

from data_engine.ingest.nyu import NyuLabelled, NyuSync
from depth_anything_train.data.images import decode_image
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH, COUNT = 12, 16, 5
KEY = "basement_0001a_00045"
TEST, TRAIN = [2, 5], [1, 3, 4]  # from 1, as MATLAB counts


def photograph(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def raw_depth(number: int) -> NDArray[np.float32]:
    """Metres that say where they are: row / 10 + column / 1000; the left column is a hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    depth_m = (number + rows / 10 + columns / 1000).astype(np.float32)
    depth_m[:, 0] = 0
    return depth_m


def write_labelled(root: Path) -> Path:
    """The official pair of files: version 7.3 with MATLAB's reversed axes, and version 5."""
    root.mkdir()
    numbers = range(1, COUNT + 1)
    filled = [np.where(raw_depth(n) > 0, raw_depth(n), np.float32(n)) for n in numbers]
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as mat:
        options: dict[str, Any] = {"compression": "gzip", "fletcher32": True}
        images = np.stack([photograph(n).T for n in numbers])
        mat.create_dataset("images", data=images, chunks=(1, *images.shape[1:]), **options)
        for name, maps in {"rawDepths": map(raw_depth, numbers), "depths": filled}.items():
            stacked = np.stack([depth_m.T for depth_m in maps])
            mat.create_dataset(name, data=stacked, chunks=(1, *stacked.shape[1:]), **options)
    columns = {"testNdxs": np.array([TEST]).T, "trainNdxs": np.array([TRAIN]).T}
    scipy.io.savemat(root / "splits.mat", columns)
    return root


def test_nyu__test_part_has_the_numbers_of_the_split_upright_and_in_metres(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    prepared = prepare_set("nyu", write_labelled(tmp_path / "raw"))
    assert list(prepared.samples) == ["0002", "0005"] and prepared.info["source"] == "nyuv2"
    np.testing.assert_array_equal(decode_image(prepared.samples["0005"].image), photograph(5))
    depth_m = prepared.depth("0005")
    assert np.isnan(depth_m[:, 0]).all()
    assert depth_m[7, 3] == pytest.approx(5 + 0.7 + 0.003, rel=1e-6)
    meta = prepared.samples["0005"].meta
    assert (meta["quantity"], meta["unit"], meta["scale"]) == ("depth", "m", 1.0)
    assert meta["camera"]["fx"] == pytest.approx(518.8579) and meta["camera"]["cy"] == pytest.approx(253.7362, abs=1e-4)


def test_nyu__parts_and_filled_depth(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_labelled(tmp_path / "raw")
    assert [item.name for item in NyuLabelled(str(root), part="train").items()] == ["0001", "0003", "0004"]
    prepared = prepare_set("nyu", root, "dataset.part=all", "dataset.depth=filled")
    assert len(prepared.samples) == COUNT and prepared.info["settings"]["depth"] == "filled"
    assert prepared.depth("0003")[4, 0] == 3


def test_nyu__a_damaged_image_is_dropped(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_labelled(tmp_path / "raw")
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as mat:
        chunk = mat["rawDepths"].id.get_chunk_info(TEST[0] - 1)
    with open(root / "nyu_depth_v2_labeled.mat", "r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"damage")
    prepared = prepare_set("nyu", root)
    assert prepared.info["drops"] == {"damaged_mat": 1} and list(prepared.samples) == ["0005"]


def test_nyu__missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)nyu_depth_v2_labeled\.mat.*splits\.mat"):
        NyuLabelled(str(tmp_path)).items()
    root = write_labelled(tmp_path / "raw")
    (root / "splits.mat").unlink()
    with pytest.raises(UserError, match=r"official split.*splits\.mat"):
        NyuLabelled(str(root)).items()
    with pytest.raises(UserError, match="raw or depth=filled"):
        NyuLabelled(str(root), depth="raw_depths")


def write_sync(root: Path) -> Path:
    for scene, frames in {"basement_0001a": (45, 9), "office_0003": (0,)}.items():
        for frame in frames:
            write_image(root / scene / f"rgb_{frame:05d}.jpg", HEIGHT, WIDTH)
            write_png(root / scene / f"sync_depth_{frame:05d}.png", np.full((HEIGHT, WIDTH), 1000 + frame, np.uint16))
    return root


def test_nyu_sync__the_list_chooses_and_bytes_stay(tmp_path: Path, prepare_set: Callable[..., Prepared]) -> None:
    root = write_sync(tmp_path / "raw")
    lines = ["/office_0003/rgb_00000.jpg /office_0003/sync_depth_00000.png 518.8579"]
    lines += ["basement_0001a/rgb_00045.jpg basement_0001a/sync_depth_00045.png 518.8579", ""]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    prepared = prepare_set("nyu_sync", root, f"dataset.file_list={tmp_path / 'train.txt'}", "pack_labels=false")
    assert list(prepared.samples) == ["basement_0001a_00045", "office_0003_00000"]
    assert prepared.info["settings"]["file_list"] == "train.txt", "the path is of this machine"
    record = prepared.samples[KEY]
    assert record.members["depth.png"] == (root / "basement_0001a/sync_depth_00045.png").read_bytes()
    assert record.members["jpg"] == (root / "basement_0001a/rgb_00045.jpg").read_bytes()
    np.testing.assert_allclose(prepared.depth(KEY), 1.045, rtol=1e-6)
    assert record.meta["camera"]["fx"] == pytest.approx(518.8579)


def test_nyu_sync__without_a_list_every_frame_and_those_without_depth_are_dropped(
    tmp_path: Path, prepare_set: Callable[..., Prepared]
) -> None:
    root = write_sync(tmp_path / "raw")
    (root / "office_0003/sync_depth_00000.png").unlink()
    write_png(root / "basement_0001a/sync_depth_00009.png", np.zeros((HEIGHT, WIDTH), np.uint16))
    prepared = prepare_set("nyu_sync", root, "max_bad_share=0.7")
    assert list(prepared.samples) == ["basement_0001a_00045"]
    assert prepared.info["drops"] == {"missing_label": 1, "no_valid_pixel": 1}


def test_nyu_sync__a_list_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("office_0003/rgb_00000.jpg\n")
    with pytest.raises(UserError, match="IMAGE DEPTH FOCAL"):
        NyuSync(str(tmp_path), file_list=str(tmp_path / "list.txt")).items()
    with pytest.raises(UserError, match="list of NYUv2 frames"):
        NyuSync(str(tmp_path), file_list=str(tmp_path / "none.txt")).items()
