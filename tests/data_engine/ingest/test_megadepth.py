from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from raw_sets import PrepareSet, cut, ramp, write_h5, write_image

from data_engine.ingest.megadepth import MegaDepth

FOLDER = "phoenix/S6/zl548/MegaDepth_v1"


def make(root: Path) -> Path:
    """Three photographs with depth, one with the order of regions, one with both."""
    depth = ramp(2, 3)
    depth[0] = 0
    order = np.where(ramp(0, 1) < 0.5, -1, -2).astype(np.float32)
    both = np.where(ramp(0, 1) < 0.5, depth, -1)
    labels = {"0000/dense0": {"1_o": depth, "2_o": order}, "0131/dense1": {"a.b": both, "c": depth, "d": depth}}
    for scene, maps in labels.items():
        for name, values in maps.items():
            write_image(root / scene / f"imgs/{name}.{'png' if name == 'c' else 'JPG' if name == 'd' else 'jpg'}")
            write_h5(root / scene / f"depths/{name}.h5", depth=values)
    return root


def test_megadepth__depth_without_unit_and_no_order(tmp_path: Path, prepare_set: PrepareSet) -> None:
    root = make(tmp_path / FOLDER)
    cut(root / "0131/dense1/depths/c.h5")
    prepared = prepare_set("megadepth", tmp_path)
    assert list(prepared.samples) == ["0000_0_1_o", "0131_1_a_b", "0131_1_d"]
    assert prepared.info["drops"] == {"ordinal_label": 1, "damaged_label": 1}
    depth = prepared.depth("0000_0_1_o")
    assert np.isnan(depth[0]).all()
    np.testing.assert_allclose(depth[1:], ramp(2, 3)[1:], rtol=1e-6)
    record = prepared.samples["0000_0_1_o"]
    assert record.image == (root / "0000/dense0/imgs/1_o.jpg").read_bytes()
    assert (record.meta["quantity"], record.meta["unit"], record.meta["camera"]) == ("depth", "unknown", None)


def test_megadepth__negative_codes_between_depths_are_invalid_and_counted(
    tmp_path: Path, prepare_set: PrepareSet
) -> None:
    make(tmp_path / FOLDER)
    prepared = prepare_set("megadepth", tmp_path)
    depth = prepared.depth("0131_1_a_b")
    assert np.isfinite(depth[1:3]).all() and np.isnan(depth[3:]).all()
    assert prepared.info["notes"] == {"negative_pixels": 24}


@pytest.mark.parametrize("below", ["", "MegaDepth_v1", FOLDER])
def test_megadepth__root_may_be_the_folder_of_scenes(tmp_path: Path, below: str) -> None:
    make(tmp_path / below)
    names = [item.name for item in MegaDepth(str(tmp_path)).items()]
    assert names == ["0000/0/1_o", "0000/0/2_o", "0131/1/a.b", "0131/1/c", "0131/1/d"]
