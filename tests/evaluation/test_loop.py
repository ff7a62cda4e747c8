"""What an evaluation asks of a model, and what it says about units; on scenes whose truth is known."""

import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import build
from pictures import write_folder
from scenes import encode, scene, write_shards

from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.schema import Record
from depth_anything_train.evaluation.judges import judge_of
from depth_anything_train.evaluation.loop import evaluate as judge
from depth_anything_train.evaluation.models import open_model
from depth_anything_train.evaluation.page import result_page
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.flip import FlipAverage
from depth_anything_train.inference.prediction import Prediction
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.pairs import PairProtocol
from depth_anything_train.runtime import UserError

METRIC = DepthProtocol("metric", alignment="none", cap_m=80.0)


class Brightness:
    """Takes the brightness of a pixel, left of the middle twice, for inverse depth in 1/m; states it by `kind`."""

    hash = "brightness"

    def __init__(self, kind="metric", factor=1.0):
        self.kind, self.factor = kind, factor

    def forward(self, images, size=None, focals_px=None):
        maps = [np.float32(image.mean(2) + 1) / 256 for image in images]
        for values in maps:
            values[:, : values.shape[1] // 2] *= 2
        maps = [values / np.float32(self.factor) for values in maps]
        return maps if self.kind == "relative" else [1 / values for values in maps]


def record(number, *, unit="m", height=42, width=56, scale=1.0):
    image, disparity = scene(number, height, width)
    meta = {"unit": unit, "quantity": "disparity", "scale": 1.0}
    label = encode_dz16(disparity * np.float32(scale), np.ones(disparity.shape, bool))
    return Record(
        f"scene-{number}", {"png": encode(image, "png"), "disparity.dz16": label, "json": json.dumps(meta).encode()}
    )


DATA = {"scenes": [record(k) for k in range(5)]}


def test_evaluate__a_metric_model_is_aligned_only_when_told():
    with pytest.raises(UserError, match="benchmark=metric .* align_metric=true"):
        judge(Brightness(), DATA, DepthProtocol())
    assert judge(Brightness(), DATA, DepthProtocol(), align_metric=True).mean()["abs_rel"] > 0
    assert judge(Brightness("relative"), DATA, DepthProtocol()).ratios == []


@pytest.mark.parametrize("factor", [1000, 100, 256])
def test_evaluate__a_wrong_unit_is_named(factor):
    sane, wrong = (judge(Brightness(factor=f), DATA, METRIC).ratios for f in (1, factor))
    assert np.median(wrong) == pytest.approx(factor * np.median(sane), rel=1e-5)


def test_evaluate__labels_beyond_the_range_are_told_with_their_unit():
    in_millimetres = {"scenes": [record(k, scale=1e-3) for k in range(3)]}
    with pytest.raises(UserError, match=r"3 x outside_range_or_crop.*labels are .* times too large"):
        judge(Brightness(), in_millimetres, METRIC)


def test_evaluate__one_pixel_is_enough_where_nothing_is_fitted():
    image, disparity = scene(0)
    valid = np.zeros(disparity.shape, bool)
    valid[5, 5] = True
    members = {"png": encode(image, "png"), "disparity.dz16": encode_dz16(disparity, valid)}
    one = Record("one", members | {"json": b'{"unit": "m", "quantity": "disparity", "scale": 1.0}'})
    assert judge(Brightness(), {"d": [one]}, METRIC).images[0].measures["pixels"] == 1
    with pytest.raises(UserError, match="1 x too_few_valid_pixels"):
        judge(Brightness("relative"), {"d": [one]}, DepthProtocol())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), kind=st.sampled_from(["relative", "metric"]))
def test_flip_average__of_a_mirrored_image_is_the_mirrored_average(seed, kind):
    image = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    model = FlipAverage(Brightness(kind))
    (plain,), (mirrored,) = model.forward([image]), model.forward([np.ascontiguousarray(image[:, ::-1])])
    np.testing.assert_allclose(mirrored, plain[:, ::-1], rtol=1e-6)


def test_flip_average__averages_what_the_model_states():
    image = np.full((2, 4, 3), 63, np.uint8)  # 0.25, and 0.5 on the left
    assert FlipAverage(Brightness("relative")).forward([image])[0] == pytest.approx(0.375)
    assert FlipAverage(Brightness("metric")).forward([image])[0] == pytest.approx((1 / 0.25 + 1 / 0.5) / 2)


def test_evaluate__judges_the_map_that_predict_writes():
    image, _ = scene(0, 42, 56)

    class Coarse(Brightness):
        """Every seventh pixel, as a network's resolution is below that of a label."""

        def forward(self, images, size=None, focals_px=None):
            return [values[::7, ::7] for values in super().forward(images, size)]

    depth_m = Prediction(Coarse().forward([image])[0], "metric").resized(42, 56).depth_m
    np.save(label := io.BytesIO(), depth_m)
    members = {"png": encode(image, "png"), "depth.npy": label.getvalue(), "json": b'{"unit": "m", "scale": 1.0}'}
    measures = judge(Coarse(), {"its own": [Record("own", members)]}, METRIC).mean()
    assert measures["abs_rel"] < 1e-6 and measures["delta1"] == 1


@pytest.mark.parametrize("flip", [False, True])
def test_evaluate__a_canonical_camera_is_that_of_each_sample(flip):
    def through(record, **camera):
        meta = json.dumps({**record.meta, "camera": camera}).encode()
        return Record(f"{record.key} {camera}", {**record.members, "json": meta})

    model = DepthAnything(build(kind="metric", max_depth_m=20.0, canonical_focal_px=100.0), size=56, device="cpu")
    plain = DepthAnything(build(kind="metric", max_depth_m=20.0), size=56, device="cpu")
    one, two = record(1, height=56), record(2, height=56)
    protocol = dataclasses.replace(METRIC, flip=flip)
    cameras = [through(one, fx=100, fy=100), through(two, fx=200, fy=50), through(two, fx=300, fy=300)]
    results = judge(model, {"a": [*cameras, one, through(two, fx=0)]}, protocol, batch_size=5)
    expected = judge(plain, {"a": [one, two]}, protocol, batch_size=2)
    assert results.skipped == {"no_camera": 2}
    assert [image.measures for image in results.images[:2]] == [image.measures for image in expected.images]
    assert results.images[2].measures["rmse"] != results.images[1].measures["rmse"]


def test_evaluate__the_protocol_decides_about_the_mirror_image():
    plain, flipped = (judge(Brightness("relative"), DATA, DepthProtocol(flip=flip)).mean() for flip in (False, True))
    assert plain["abs_rel"] != flipped["abs_rel"]


def test_evaluate__kb_cuts_image_and_label_before_the_network():
    seen = []

    class Watch(Brightness):
        def forward(self, images, size=None, focals_px=None):
            seen.extend(images)
            return super().forward(images, size)

    whole = record(1, height=370, width=1226)
    small = record(2, height=300, width=1226)
    protocol = DepthProtocol("kitti", alignment="none", cap_m=80.0, crop="garg", input_crop="kb")
    results = judge(Watch(), {"kitti": [whole, small]}, protocol)
    image, disparity = scene(1, 370, 1226)
    assert np.array_equal(seen[0], image[18:, 5:1221]) and results.skipped == {"image_size": 1}
    inside = disparity[18:, 5:1221][143:349, 43:1172]
    assert results.images[0].measures["pixels"] == np.count_nonzero(inside > 1 / 80)


def test_page__pairs_need_no_camera_of_a_model_that_needs_one_for_metres():
    model = DepthAnything(build(kind="metric", max_depth_m=20.0, canonical_focal_px=50.0), size=28, device="cpu")
    meta = {"pairs": [{"nearer": [3, 3], "farther": [0, 0]}]}
    data = {"pairs": [Record("a", {"jpg": encode(scene(0)[0]), "json": json.dumps(meta).encode()})]}
    results, judge_of_pairs = judge(model, data, PairProtocol()), judge_of(PairProtocol())
    assert result_page(results, "mine", model, data, judge_of_pairs, None).count("<img") == 2


def test_mean_map__in_metres_refuses_labels_of_another_unit(tmp_path):
    samples = [(one.key, one.members) for one in (record(0), record(1, unit="px"))]
    labelled = write_folder(tmp_path / "s", {"kind": "labelled"}, [samples])
    assert open_model("mean_map", [str(labelled)]).kind == "relative"
    with pytest.raises(UserError, match="sample scene-1 says unit=px; name other folders"):
        open_model("mean_map:40", [str(labelled)])


def test_evaluate__a_strip_that_the_network_cannot_take_is_skipped_and_counted():
    model = DepthAnything(build(), size=518, device="cpu")
    data = {"a": [record(0), record(1, height=8, width=1200)]}
    results = judge(model, data, DepthProtocol(), size=518)
    assert [image.key for image in results.images] == ["scene-0"] and results.skipped == {"extreme_aspect": 1}


def test_evaluate__pairs_that_are_none_are_skipped_and_counted():
    image = encode(scene(0)[0])
    good = {"nearer": [3, 3], "farther": [0, 0]}
    wrong = [{**good, "farther": [42, 0]}, {**good, "farther": [0.5, 0]}, {"nearer": [1]}]
    metas = [{"pairs": [good]}, {}, *({"pairs": [pair]} for pair in wrong)]
    records = [Record(str(k), {"jpg": image, "json": json.dumps(meta).encode()}) for k, meta in enumerate(metas)]
    results = judge(Brightness("relative"), {"pairs": records}, PairProtocol())
    assert results.skipped == {"no_pairs": 1, "bad_annotation": 3} and results.images[0].group == "pairs"


# -- The command. ------------------------------------------------------------------------------------------------------


def test_command__a_published_protocol_keeps_its_name_only_unchanged(tmp_path, evaluate, model, read, capsys):
    data = write_shards(tmp_path / "scenes", "labelled", counts=(3,))
    keys = [f"model={model}", f"data={data}", f"out={tmp_path / 'out'}", "benchmark=paper/kitti", "benchmark.crop=garg"]
    with pytest.raises(SystemExit):
        evaluate(*keys)
    assert "benchmark.crop=garg makes it another" in capsys.readouterr().err
    evaluate(*keys, "benchmark.name=mine", "benchmark.family=own")
    written = read(tmp_path / "out" / "results.json")
    assert (written["protocol"]["name"], written["protocol"]["crop"]) == ("mine", "garg")
    assert "3 images instead of the 652 of the protocol" in (tmp_path / "out" / "results.md").read_text()
    low, high = written["intervals"]["mean"]["abs_rel"]
    assert low <= written["mean"]["abs_rel"] <= high and written["unit_warning"] is None


def test_page__shows_best_median_and_worst_of_each_set(tmp_path, evaluate, model, read):
    data = {
        name: write_shards(tmp_path / name, "labelled", counts=(n,), first=10 * n) for name, n in (("a", 5), ("b", 1))
    }
    named = ",".join(f"{name}: {folder}" for name, folder in data.items())
    evaluate(f"model={model}", f"data={{{named}}}", f"out={tmp_path / 'out'}")
    page = (tmp_path / "out" / "page.html").read_text()
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()[1:6]
    ranked = sorted((row.split(",") for row in rows), key=lambda row: float(row[3]))
    for rank, row in zip(("best", "median", "worst"), (ranked[0], ranked[2], ranked[4]), strict=True):
        assert f"<h3>{rank}: {row[1]}, AbsRel {float(row[3]):.3f}</h3>" in page
    assert page.count("<svg") == 1 and page.count("<img") == 4 * 4, "a set of one image has no curve and one row"
    assert "http" not in page.replace("http://www.w3.org", "")


def test_parquet__has_the_rows_of_the_csv(tmp_path, evaluate, model):
    parquet = pytest.importorskip("pyarrow.parquet")
    data = write_shards(tmp_path / "scenes", "labelled", counts=(3,))
    evaluate(f"model={model}", f"data={data}", f"out={tmp_path / 'out'}", "page=false")
    table = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert list(table[0]) == lines[0].split(",")
    assert [[str(value) for value in row.values()] for row in table] == [line.split(",") for line in lines[1:]]
