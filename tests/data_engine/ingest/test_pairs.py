from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from raw_sets import write_exr

from data_engine.ingest.pairs import Pairs
from data_engine.ingest.raw_labels import read_label_file, read_pfm
from depth_anything_train.data.camera import read_focal
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import BadSample
from depth_anything_train.runtime import UserError

HEIGHT, WIDTH = 12, 16


def depth(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float32]:
    """1 to 2 metres."""
    return np.linspace(1, 2, height * width, dtype=np.float32).reshape(height, width)


def write_image(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.full((height, width, 3), 99, np.uint8))[1].tobytes())


def write_label(path: Path, stored: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    elif path.suffix == ".npy":
        np.save(path, stored)
    else:
        path.write_bytes(pfm(stored))


def pfm(stored: NDArray[np.float32], order: str = "<") -> bytes:
    scale = b"-1.0" if order == "<" else b"1.0"
    header = b"Pf\n%d %d\n%s\n" % (stored.shape[1], stored.shape[0], scale)
    return header + stored[::-1].astype(f"{order}f4").tobytes()


def make_folders(root: Path, label: str = "a.png", stored: NDArray[Any] | None = None) -> Pairs:
    write_image(root / "images" / f"{Path(label).stem}.jpg")
    write_label(root / "labels" / label, (depth() * 1000).astype(np.uint16) if stored is None else stored)
    return Pairs(str(root), scale=1000)


def load_one(pairs: Pairs) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, Any]]:
    (item,) = pairs.items()
    members = pairs.load(item).members
    meta = json.loads(members["json"])
    (extension,) = [name for name in members if name.startswith(("depth.", "disparity."))]
    return *decode_label(extension, members[extension], meta), meta


def reason(pairs: Pairs) -> str:
    (item,) = pairs.items()
    with pytest.raises(BadSample) as caught:
        pairs.load(item)
    return caught.value.reason


def test_pairs__png_and_image_bytes_are_untouched(tmp_path: Path) -> None:
    pairs = make_folders(tmp_path)
    sample = pairs.load(pairs.items()[0])
    assert sample.key == "a" and list(sample.members) == ["jpg", "depth.png", "json"]
    assert sample.members["jpg"] == (tmp_path / "images/a.jpg").read_bytes()
    assert sample.members["depth.png"] == (tmp_path / "labels/a.png").read_bytes()


@pytest.mark.parametrize("label", ["a.png", "a.npy", "a.pfm", "deep/er/a.npy"])
def test_pairs__every_label_type_gives_the_same_disparity(tmp_path: Path, label: str) -> None:
    write_image(tmp_path / "images" / Path(label).with_suffix(".png"))
    stored = (depth() * 1000).round()
    write_label(tmp_path / "labels" / label, stored.astype(np.uint16 if label.endswith("png") else np.float32))
    disparity, valid, meta = load_one(Pairs(str(tmp_path), scale=1000))
    np.testing.assert_allclose(disparity, 1000 / stored, rtol=1e-6)
    assert valid.all() and (meta["unit"], meta["scale"], meta["quantity"]) == ("m", 1000, "depth")


def test_pairs__disparity_is_not_inverted(tmp_path: Path) -> None:
    make_folders(tmp_path, "a.npy", depth())
    disparity, _, meta = load_one(Pairs(str(tmp_path), quantity="disparity"))
    np.testing.assert_array_equal(disparity, depth())
    assert meta["unit"] == "unknown"


def test_pairs__double_precision_becomes_float32_npy(tmp_path: Path) -> None:
    make_folders(tmp_path, "a.npy", depth().astype(np.float64))
    codec, data, notes = read_label_file(tmp_path / "labels/a.npy")
    make_folders(tmp_path, "b.npy", depth())
    assert (codec, data, notes) == ("npy", (tmp_path / "labels/b.npy").read_bytes(), {})


def test_pairs__negative_and_not_finite_values_are_invalid_and_counted(tmp_path: Path) -> None:
    stored = depth()
    stored[0, :5] = -1, -2, np.nan, np.inf, 0
    pairs = make_folders(tmp_path, "a.npy", stored)
    notes = {"negative_pixels": 2, "not_finite_pixels": 2, "implausible_scale": 1}  # 1 to 2 mm
    assert pairs.load(pairs.items()[0]).notes == notes
    _, valid, _ = load_one(pairs)
    assert not valid[0, :5].any() and valid.sum() == valid.size - 5


def test_pairs__invalid_marks_are_kept_in_the_json(tmp_path: Path) -> None:
    make_folders(tmp_path, stored=np.full((HEIGHT, WIDTH), 65535, np.uint16) - np.arange(WIDTH, dtype=np.uint16))
    _, valid, meta = load_one(Pairs(str(tmp_path), scale=1000, invalid=65535))
    assert meta["invalid"] == 65535 and not valid[:, 0].any() and valid[:, 1:].all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_read_pfm__reads_both_byte_orders_from_the_bottom_up(order: str) -> None:
    np.testing.assert_array_equal(read_pfm(pfm(depth(), order)), depth())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"PF\n2 2\n-1.0\n" + bytes(48), "label_type"),
        (b"P6\n2 2\n255\n" + bytes(12), "label_type"),
        (b"", "label_type"),
        (pfm(depth())[:-1], "damaged_label"),
        (b"Pf\n0 2\n-1.0\n", "damaged_label"),
        (b"Pf\n999999 999999\n-1.0\n" + bytes(4), "damaged_label"),
    ],
)
def test_read_pfm__names_what_is_wrong(data: bytes, expected: str) -> None:
    with pytest.raises(BadSample) as caught:
        read_pfm(data)
    assert caught.value.reason == expected


def test_pairs__missing_partners_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "images/alone.jpg")
    write_label(tmp_path / "labels/lost.png", np.ones((HEIGHT, WIDTH), np.uint16))
    pairs = Pairs(str(tmp_path))
    reasons = {}
    for item in pairs.items():
        with pytest.raises(BadSample) as caught:
            pairs.load(item)
        reasons[item.name] = caught.value.reason
    assert reasons == {"alone": "missing_label", "lost": "missing_image"}


def test_pairs__a_partner_of_another_format_is_named_and_not_called_missing(tmp_path: Path) -> None:
    make_folders(tmp_path)
    for name in ("labels/b.tif", "labels/b.txt", "images/c.bmp", "images/a.txt"):
        (tmp_path / name).write_bytes(b"x")
    write_image(tmp_path / "images/b.jpg")
    write_label(tmp_path / "labels/c.npy", depth())
    pairs, said = Pairs(str(tmp_path)), []
    for item in pairs.items()[1:]:
        with pytest.raises(BadSample) as caught:
            pairs.load(item)
        said.append((caught.value.reason, str(caught.value)))
    assert said[0] == ("label_type", "Expected a label of type png, npy, pfm, exr, but got b.tif.")
    assert said[1][0] == "image_type"


def test_pairs__exr_of_one_channel_is_a_label(tmp_path: Path) -> None:
    values = depth()
    values[0, :2] = np.nan, 0
    write_image(tmp_path / "images/a.jpg")
    write_exr(tmp_path / "labels/a.exr", Z=values)
    disparity, valid, _ = load_one(Pairs(str(tmp_path), scale=1))
    assert (valid == (values > 0)).all() and np.allclose(1 / disparity[valid], values[valid])
    write_exr(tmp_path / "labels/a.exr", R=values, G=values, B=values)
    assert reason(Pairs(str(tmp_path))) == "label_type"


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.ones((WIDTH, HEIGHT), np.uint16), "label_size"),
        (np.ones((HEIGHT, WIDTH), np.uint8), "label_type"),
        (np.ones((HEIGHT, WIDTH, 3), np.uint16), "label_type"),
        (np.zeros((HEIGHT, WIDTH), np.uint16), "no_valid_pixel"),
    ],
)
def test_pairs__a_label_that_does_not_fit_is_named(tmp_path: Path, stored: NDArray[Any], expected: str) -> None:
    assert reason(make_folders(tmp_path, stored=stored)) == expected


def test_pairs__all_negative_or_nan_is_no_valid_pixel(tmp_path: Path) -> None:
    for value in (-1.0, np.nan):
        assert reason(make_folders(tmp_path, "a.npy", np.full((HEIGHT, WIDTH), value, np.float32))) == "no_valid_pixel"


def test_pairs__a_smaller_label_of_the_same_shape_is_kept(tmp_path: Path) -> None:
    disparity, _, _ = load_one(make_folders(tmp_path, stored=np.ones((3, 4), np.uint16)))
    assert disparity.shape == (3, 4)


def test_pairs__a_cut_image_is_named(tmp_path: Path) -> None:
    pairs = make_folders(tmp_path)
    image = tmp_path / "images/a.jpg"
    image.write_bytes(image.read_bytes()[:-10])
    assert reason(pairs) == "truncated_image"


def test_pairs__colliding_keys_are_counted_once(tmp_path: Path) -> None:
    for name in ("x/y", "x_y"):
        write_image(tmp_path / f"images/{name}.jpg")
        write_label(tmp_path / f"labels/{name}.png", np.ones((HEIGHT, WIDTH), np.uint16))
    items = Pairs(str(tmp_path)).items()
    assert [(item.key, item.unique) for item in items] == [("x_y", True), ("x_y", False)]


def test_pairs__a_second_label_shows_as_duplicate(tmp_path: Path) -> None:
    make_folders(tmp_path)
    write_label(tmp_path / "labels/a.npy", depth())
    first, second = Pairs(str(tmp_path)).items()
    assert first.unique and not second.unique


INDEX = """id,kind,rgb,depth,depth_kind,depth_units,depth_scale,invalid_value,fx,fy,cx,cy,environment,dataset_licence
room/1,pair,rgb/a.jpg,depth/a.png,z_depth,m,1000,0;65535.0,10,11,8,6,indoor,CC BY 4.0
road/1,pair,rgb/b.jpg,depth/b.npy,disparity,px,1,0,,,,,,
odd/1,pair,rgb/a.jpg,depth/a.png,z_depth,unknown scale,1,,,,,,,
lost/1,pair,rgb/a.jpg,,z_depth,m,1000,0,,,,,,
lost/2,pair,rgb/none.jpg,depth/a.png,z_depth,m,1000,0,,,,,,
photo/1,photo,rgb/a.jpg,,,,,,,,,,,
"""


def make_index(root: Path) -> Pairs:
    for name, stored in (("a.png", (depth() * 1000).astype(np.uint16)), ("b.npy", depth())):
        write_image(root / "rgb" / f"{Path(name).stem}.jpg")
        write_label(root / "depth" / name, stored)
    (root / "index.csv").write_text(INDEX)
    return Pairs(str(root), source="set")


def test_pairs__an_index_gives_unit_scale_and_camera(tmp_path: Path) -> None:
    pairs = make_index(tmp_path)
    room, road, odd = (json.loads(pairs.load(item).members["json"]) for item in pairs.items()[:3])
    assert room == {
        "source": "set",
        "kind": "labelled",
        "item": "room/1",
        "quantity": "depth",
        "unit": "m",
        "scale": 1000.0,
        "invalid": 65535,
        "camera": {"fx": 10.0, "fy": 11.0, "cx": 8.0, "cy": 6.0},
        "licence": "CC BY 4.0",
        "environment": "indoor",
    }
    assert (road["quantity"], road["unit"], road["scale"], road["invalid"]) == ("disparity", "px", 1.0, None)
    assert (road["camera"], road["licence"], odd["unit"]) == (None, None, "unknown")


def test_pairs__further_columns_of_an_index_are_kept_unless_the_json_means_something_else_by_the_name(
    tmp_path: Path,
) -> None:
    pairs = make_index(tmp_path)
    text = "rgb,depth,sensor,source,camera,scene,,fx\nrgb/a.jpg,depth/a.png,Kinect v1,raw,left, ,7,500\n"
    (tmp_path / "index.csv").write_text(text)
    meta = load_one(pairs)[2]
    further = {"sensor": "Kinect v1", "column_source": "raw", "column_camera": "left"}
    assert {name: meta[name] for name in further} == further
    assert meta["source"] == "set" and meta["camera"] == {"fx": 500.0, "fy": 500.0}  # square pixels
    assert read_focal(meta) == 500
    assert not {"scene", "fx", "", "rgb"} & meta.keys()


@pytest.mark.parametrize(("photo", "label"), [("a.jpg", "a.png"), ("a.jpg", "a.npy"), ("a.png", "a.png")])
def test_pairs__photographs_in_the_place_of_labels_are_called_so(tmp_path: Path, photo: str, label: str) -> None:
    write_image(tmp_path / "labels" / photo)
    write_label(tmp_path / "images" / label, (depth() * 1000).astype(np.uint16))
    with pytest.raises(UserError, match="images holds depth maps and .*labels photographs: exchange them"):
        Pairs(str(tmp_path)).items()
    assert Pairs(str(tmp_path), images="labels", labels="images").items()
    (tmp_path / "index.csv").write_text(f"rgb,depth\nimages/{label},labels/{photo}\n")
    with pytest.raises(UserError, match="the column rgb names depth maps and depth photographs; exchange"):
        Pairs(str(tmp_path)).items()


def test_pairs__an_index_whose_paths_lie_beside_it_says_which_root_to_give(tmp_path: Path) -> None:
    make_index(tmp_path / "set")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=f"not below root={tmp_path / 'other'}; give root={tmp_path / 'set'}"):
        Pairs(str(tmp_path / "other"), index=str(tmp_path / "set" / "index.csv")).items()


def test_pairs__missing_files_of_an_index_are_named(tmp_path: Path) -> None:
    pairs = make_index(tmp_path)
    reasons = []
    for item in pairs.items()[3:]:
        with pytest.raises(BadSample) as caught:
            pairs.load(item)
        reasons.append((caught.value.reason, str(caught.value).partition("expected ")[2]))
    assert reasons == [("missing_label", "its name in the index."), ("missing_image", "rgb/none.jpg below root=.")]


def test_pairs__a_minimal_index_takes_the_rest_from_the_settings(tmp_path: Path) -> None:
    make_index(tmp_path / "set")
    (tmp_path / "mine.csv").write_text("rgb,depth,invalid_value\nrgb/a.jpg,depth/a.png,\n")
    pairs = Pairs(str(tmp_path / "set"), index=str(tmp_path / "mine.csv"), scale=500, invalid=65535)
    assert pairs.source == "set"
    disparity, _, meta = load_one(pairs)
    assert pairs.items()[0].key == "rgb_a" and (meta["unit"], meta["scale"], meta["invalid"]) == ("m", 500, 65535)
    assert disparity.max() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na,b\n", "columns rgb and depth"),
        ("rgb,depth,depth\na,b,c\n", "every column of .* once, but depth is there again"),
        ("rgb,depth,depth_scale\na.jpg,a.png,much\n", "line 2"),
        ("rgb,depth,depth_kind\na.jpg,a.png,euclidean\n", "z_depth"),
        ("rgb,depth,invalid_value\na.jpg,a.png,7;9\n", "only one"),
        ("rgb,depth,invalid_value\na.jpg,a.png,7.5\n", "invalid_value '7.5' is no whole number"),
        ("rgb,depth,fx,fy\na.jpg,a.png,500,nan\n", "fx and fy must be above 0"),
        ("rgb,depth,fy\na.jpg,a.png,500\n", "the camera is {'fx': 0.0, 'fy': 500.0}"),
        ("rgb,depth,fx,cx\na.jpg,a.png,500,inf\n", "cx and cy finite"),
        ("rgb,depth\n", "holds none"),
    ],
)
def test_pairs__an_index_that_cannot_be_read_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        Pairs(str(tmp_path)).items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantity": "metres"}, "quantity"),
        ({"part": "val"}, "part"),
        ({"test_share": 2.0}, "test_share"),
        ({"scale": 0.0}, "scale"),
        ({"invalid": 1.5}, "Expected a whole number as invalid, but got 1.5"),
        ({"index": "none.csv"}, "none.csv"),
        ({"labels": "gt"}, "gt/"),
    ],
)
def test_pairs__senseless_settings_are_explained(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    make_folders(tmp_path)
    if "index" in settings:
        settings = {"index": str(tmp_path / settings["index"])}
    with pytest.raises(UserError, match=message):
        Pairs(str(tmp_path), **settings).items()
    with pytest.raises(UserError, match="does not exist"):
        Pairs(str(tmp_path / "nowhere")).items()


def test_pairs__train_and_test_share_all_pairs_by_key(tmp_path: Path) -> None:
    for number in range(60):
        write_image(tmp_path / f"images/{number}.jpg")
        write_label(tmp_path / f"labels/{number}.png", np.ones((HEIGHT, WIDTH), np.uint16))
    parts = {
        part: {item.key for item in Pairs(str(tmp_path), part=part, test_share=0.25).items()}
        for part in ("train", "test", "all")
    }
    assert parts["train"] | parts["test"] == parts["all"] and not parts["train"] & parts["test"]
    assert 5 <= len(parts["test"]) <= 27
    (tmp_path / "images/7.jpg").unlink()  # what else is there does not matter
    fewer = {item.key for item in Pairs(str(tmp_path), part="test", test_share=0.25).items()}
    assert fewer - {"7"} == parts["test"] - {"7"}


@pytest.mark.samples
def test_pairs__real_samples_agree_with_their_index(samples_folder: Path) -> None:
    import csv

    with open(samples_folder / "index.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "pair"]
    pairs = Pairs(str(samples_folder))
    items = pairs.items()
    assert [item.name for item in items] == [row["id"] for row in rows]
    for item, row in list(zip(items, rows, strict=True))[::6]:
        sample = pairs.load(item)
        meta = json.loads(sample.members["json"])
        (extension,) = [name for name in sample.members if "." in name]
        disparity, valid = decode_label(extension, sample.members[extension], meta)
        values = disparity[valid] if meta["quantity"] == "disparity" else 1 / disparity[valid]
        assert valid.mean() == pytest.approx(float(row["valid_fraction"]), abs=2e-4)
        assert np.median(values) == pytest.approx(float(row["median"]), rel=2e-3, abs=2e-3)


def test_items__an_index_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes("rgb,depth\na.jpg,é.png\n".encode("latin-1"))
    with pytest.raises(UserError, match="Expected a CSV file in UTF-8 in .*index.csv"):
        Pairs(str(tmp_path)).items()


def test_items__a_count_below_one_is_refused(tmp_path: Path) -> None:
    pairs = make_folders(tmp_path)
    object.__setattr__(pairs, "count", 0)
    with pytest.raises(UserError, match="Expected count to be a whole number of at least 1, but got 0"):
        pairs.items()
