from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from raw_sets import PrepareSet, write_image, write_png

from data_engine import packing
from data_engine.ingest.base import RawSample
from data_engine.ingest.pairs import Pairs
from data_engine.packing import PackedLabels, pack_label
from data_engine.prepare import prepare
from depth_anything_train.data.dz16 import decode_dz16, encode_codes
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import BadSample, Record
from depth_anything_train.files import read_json
from depth_anything_train.runtime import UserError

ANY_CODES = arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


def sample(codes: NDArray[np.uint16], member: str = "depth.png", **meta: object) -> RawSample:
    png = cv2.imencode(".png", codes)[1].tobytes()
    return RawSample(
        "a", {"jpg": b"image", member: png, "json": json.dumps({"scale": 1000, **meta}).encode()}, {"n": 1}
    )


def smooth(height: int = 120, width: int = 160) -> NDArray[np.uint16]:
    y, x = np.mgrid[:height, :width]
    return (4000 + 900 * np.sin(x / 31) + 700 * np.cos(y / 23)).astype(np.uint16)


def label(packed: RawSample) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    record = Record(packed.key, packed.members)
    return decode_label(*record.label(), record.meta)


@settings(deadline=None)
@given(codes=ANY_CODES)
def test_encode_codes__every_code_comes_back_and_0_is_invalid(codes: NDArray[np.uint16]) -> None:
    decoded, valid = decode_dz16(encode_codes(codes))
    np.testing.assert_array_equal(decoded, codes)
    np.testing.assert_array_equal(valid, codes != 0)


@settings(deadline=None)
@given(
    codes=ANY_CODES,
    scale=st.one_of(st.integers(1, 70000), st.floats(1e-3, 1e6)),
    quantity=st.sampled_from(["depth", "disparity"]),
)
def test_encode_codes__the_label_is_that_of_the_png_bit_for_bit(
    codes: NDArray[np.uint16], scale: float, quantity: str
) -> None:
    png = cv2.imencode(".png", codes)[1].tobytes()
    before = decode_label(f"{quantity}.png", png, {"scale": scale})
    after = decode_label(f"{quantity}.dz16", encode_codes(codes), {"scale": scale})
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", [5e-324, 1e-38, 1e39, 1e300])
def test_encode_codes__a_scale_beyond_float32_leaves_finite_labels(scale: float) -> None:
    disparity, valid = decode_label("disparity.dz16", encode_codes(smooth()), {"scale": scale})
    assert np.isfinite(disparity).all() and (disparity[~valid] == 0).all()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), "1000"])
def test_encode_codes__a_scale_that_is_none_is_named(scale: object) -> None:
    with pytest.raises(BadSample, match="Expected a scale > 0"):
        decode_label("depth.dz16", encode_codes(smooth()), {"scale": scale})


@pytest.mark.parametrize("scale", [256, 1000, 5000.0, 0.37])
def test_pack_label__a_dense_label_becomes_dz16_and_the_rest_stays(scale: float) -> None:
    codes = smooth()
    codes[:9] = 65535
    given_sample = sample(codes, scale=scale, invalid=65535)
    packed = pack_label(given_sample)
    assert list(packed.members) == ["jpg", "depth.dz16", "json"]
    assert len(packed.members["depth.dz16"]) < len(given_sample.members["depth.png"])
    assert packed.members["jpg"] == b"image" and packed.members["json"] == given_sample.members["json"]
    assert packed.key == "a" and packed.notes == {"n": 1}
    for before, after in zip(label(given_sample), label(packed), strict=True):
        np.testing.assert_array_equal(before, after)


def test_pack_label__a_sparse_label_stays_png() -> None:
    codes = np.where(np.random.default_rng(0).random((120, 160)) < 0.04, smooth(), 0).astype(np.uint16)
    assert pack_label(sample(codes)) == sample(codes)


def test_pack_label__whatever_would_change_the_label_stays_png(monkeypatch: pytest.MonkeyPatch) -> None:
    given_sample = sample(smooth())
    monkeypatch.setattr(packing, "encode_codes", lambda codes: encode_codes(codes + np.uint16(1)))
    assert pack_label(given_sample) is given_sample


def test_pack_label__other_labels_are_left_alone() -> None:
    given_sample = RawSample("a", {"jpg": b"", "depth.npy": b"anything", "json": b"{}"})
    assert pack_label(given_sample) is given_sample


def test_prepare__packs_labels_and_says_so(tmp_path: Path, prepare_set: PrepareSet) -> None:
    write_image(tmp_path / "raw/images/a.jpg", 120, 160)
    write_png(tmp_path / "raw/labels/a.png", smooth())
    packed, plain = (
        prepare_set("pairs", tmp_path / "raw", "dataset.scale=1000", f"pack_labels={pack}") for pack in (True, False)
    )
    assert "depth.dz16" in packed.samples["a"].members and "depth.png" in plain.samples["a"].members
    np.testing.assert_array_equal(packed.disparity("a"), plain.disparity("a"))
    assert packed.info["packed"] == "Pairs" and "packed" not in plain.info
    assert packed.info["settings"] == plain.info["settings"]


def test_prepare__does_not_mix_packed_and_other_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "raw/images/a.jpg", 120, 160)
    write_png(tmp_path / "raw/labels/a.png", smooth())
    pairs = Pairs(str(tmp_path / "raw"), scale=1000)
    prepare(PackedLabels(pairs), tmp_path / "out", workers=0)
    before = read_json(tmp_path / "out/dataset.json")
    assert before["schema"] == 2  # older programs would read these labels without their scale
    with pytest.raises(UserError, match="other settings"):
        prepare(pairs, tmp_path / "out", workers=0)
    assert read_json(tmp_path / "out/dataset.json") == before


def test_prepare__a_folder_that_was_not_packed_is_told_how_it_continues(tmp_path: Path) -> None:
    write_image(tmp_path / "raw/images/a.jpg", 120, 160)
    write_png(tmp_path / "raw/labels/a.png", smooth())
    pairs = Pairs(str(tmp_path / "raw"), scale=1000)
    prepare(pairs, tmp_path / "out", workers=0)
    assert read_json(tmp_path / "out/dataset.json")["schema"] == 1
    with pytest.raises(UserError, match="pack_labels=false continues it"):
        prepare(PackedLabels(pairs), tmp_path / "out", workers=0)


def test_decode_label__dz16_without_a_scale_has_1() -> None:
    for meta in ({}, {"scale": None}, {"scale": 1}):
        np.testing.assert_array_equal(decode_label("disparity.dz16", encode_codes(smooth()), meta)[0], smooth())


def test_pack_label__real_labels_are_the_same(samples_folder: Path) -> None:
    smaller = 0
    for path in sorted(samples_folder.rglob("*.png")):
        codes = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if codes.dtype == np.uint16 and codes.ndim == 2 and codes.size < 10**6:
            packed = pack_label(given_sample := sample(codes))
            smaller += packed is not given_sample
            for before, after in zip(label(given_sample), label(packed), strict=True):
                np.testing.assert_array_equal(before, after)
    assert smaller >= 20
