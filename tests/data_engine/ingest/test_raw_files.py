from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from raw_sets import cut, write

from data_engine.ingest.raw_files import encode_rgb, open_mat73, pinhole, read_lines, read_mat, read_split, require_file
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError


def test_pinhole__takes_a_projection_and_moves_the_first_pixel_to_0() -> None:
    projection = np.array([[700.5, 0, 320, 45], [0, 701.5, 240, 0.2], [0, 0, 1, 0.003]])
    assert pinhole(projection) == {"fx": 700.5, "fy": 701.5, "cx": 320, "cy": 240}
    assert pinhole(projection[:, :3], first_pixel=0.5) == {"fx": 700.5, "fy": 701.5, "cx": 319.5, "cy": 239.5}


def test_read_split__another_file_is_named(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[3], [1]], np.uint16)})
    assert read_split(tmp_path / "splits.mat", "trainNdxs", what="the split") == [3, 1]
    with pytest.raises(UserError, match=r"Expected the split in .*splits\.mat, but it holds no testNdxs; download"):
        read_split(tmp_path / "splits.mat", "testNdxs", what="the split")


def test_read_lines__without_empty_ones(tmp_path: Path) -> None:
    write(tmp_path / "list.txt", b"a b\r\n\n  \nc d")
    assert read_lines(tmp_path / "list.txt", what="a list") == ["a b", "c d"]
    write(tmp_path / "list.txt", b"\xff\xfe\x00")
    with pytest.raises(UserError, match="a list as a text file"):
        read_lines(tmp_path / "list.txt", what="a list")


def test_require_file__names_what_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Expected the official split in .*splits\.mat, which does not exist"):
        require_file(tmp_path / "splits.mat", what="the official split")


def test_read_mat__structs_and_cells_become_dicts_and_arrays(tmp_path: Path) -> None:
    cells = np.array([["a", "bc"]], object)
    scipy.io.savemat(tmp_path / "a.mat", {"data": {"depth": np.eye(2)}, "names": cells})
    content = read_mat(tmp_path / "a.mat")
    np.testing.assert_array_equal(content["data"]["depth"], np.eye(2))
    assert content["names"].tolist() == ["a", "bc"]


@pytest.mark.parametrize("data", [b"", b"no MATLAB file at all", bytes(200)])
def test_read_mat__damage_of_any_kind_is_one_reason(tmp_path: Path, data: bytes) -> None:
    write(tmp_path / "a.mat", data)
    with pytest.raises(BadSample) as caught:
        read_mat(tmp_path / "a.mat")
    assert caught.value.reason == "damaged_mat"


def test_read_mat__every_cut_is_seen(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "whole.mat", {"data": {"depth": np.arange(200.0)}}, do_compression=True)
    whole = (tmp_path / "whole.mat").read_bytes()
    for size in range(1, len(whole), 37):
        write(tmp_path / "cut.mat", whole[:size])
        try:
            assert "data" not in read_mat(tmp_path / "cut.mat"), f"read from {size} of {len(whole)} bytes"
        except BadSample as error:
            assert error.reason == "damaged_mat"


def test_open_mat73__damage_and_what_is_missing_is_one_reason(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["depths"], file["kind"] = np.ones((2, 3, 4)), np.dtype("f4")
    with open_mat73(tmp_path / "a.mat") as mat:
        assert mat["depths"][1].T.shape == (4, 3)
    for name, index in (("images", 0), ("depths", 2), ("kind", 0)):
        with pytest.raises(BadSample, match="a.mat"), open_mat73(tmp_path / "a.mat") as mat:
            mat[name][index]
    cut(tmp_path / "a.mat")
    with pytest.raises(BadSample, match="a.mat"), open_mat73(tmp_path / "a.mat"):
        pass


def test_encode_rgb__is_lossless_and_refuses_what_is_no_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode_rgb(pixels), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, pixels)
    for wrong in (pixels[..., 0], pixels.astype(np.float32), pixels[..., :2]):
        with pytest.raises(BadSample, match="8 bits and 3 channels"):
            encode_rgb(wrong)
