import json

import pytest
import torch
from segmented import NAMES, classes_of, write_segmented

from depth_anything_train.data.test_sets import open_data
from depth_anything_train.evaluation.segment_command import main
from depth_anything_train.evaluation.segmentation import count
from depth_anything_train.inference.segmentation import SlidingWindow
from depth_anything_train.metrics.segmentation import best_constant_miou, class_ious, confusion_of, measures
from depth_anything_train.models.encoder import EncoderConfig
from depth_anything_train.models.segmenter import Segmenter, SegmenterConfig, save_segmenter
from depth_anything_train.runtime import UserError

ENCODER = EncoderConfig("test", embed_dim=32, depth=4, num_heads=2, ffn="mlp", taps=(0, 1, 2, 3), image_size=28)
WINDOW = SlidingWindow(size=60, crop=56, stride=28)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SegmenterConfig(
        ENCODER, num_classes=4, queries=8, width=32, heads=2, feedforward=32, pixel_layers=1, query_layers=1
    )
    return Segmenter(config).eval()


def by_hand(model, numbers):
    pairs = [classes_of(number) for number in numbers]
    return sum(confusion_of(truth, WINDOW.classes(model, image, truth.shape), 4) for image, truth in pairs)


def test_count__sums_pixels_over_images_and_says_what_was_left_out(model, tmp_path):
    data = open_data([str(write_segmented(tmp_path / "shards", count=4, damaged=(2,)))], kind="segmented")
    counted = count(model, data, WINDOW, progress=False)
    expected = by_hand(model, (0, 1, 3))
    assert torch.equal(counted.confusion, expected) and counted.measures() == {"images": 3, **measures(expected)}
    assert sum(counted.skipped.values()) == 1
    with pytest.raises(UserError, match="none could be used"):
        count(model, {"none": []}, WINDOW, progress=False)


def segment(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["depth-anything", *arguments])
    main()


def test_segment__other_data_than_the_benchmarks_get_no_number_of_the_papers(model, tmp_path, monkeypatch, capsys):
    run, shards, out = tmp_path / "run", write_segmented(tmp_path / "shards", count=1), tmp_path / "out"
    save_segmenter(run / "model", model, {})
    window = ["benchmark.window.size=60", "benchmark.window.crop=56", "benchmark.window.stride=28"]
    keys = ["benchmark=cityscapes", *window, "device=cpu", "pictures=0"]
    segment(monkeypatch, f"model={run}", f"data=[{shards}]", f"out={out}", *keys)
    results = json.loads((out / "results.json").read_text())
    assert results["benchmark"] == "boxes, in the windows of Cityscapes" and results["paper_miou"] == {}
    assert "the shards are of boxes and the benchmark is Cityscapes" in capsys.readouterr().err
    assert "V1-L" not in (out / "page.html").read_text()


def test_segment__writes_ours_beside_the_papers(model, tmp_path, monkeypatch, capsys):
    run, shards, out = tmp_path / "run", write_segmented(tmp_path / "shards", count=4), tmp_path / "out"
    info = json.loads((shards / "dataset.json").read_text())
    (shards / "dataset.json").write_text(json.dumps({**info, "source": "ade20k"}))
    save_segmenter(run / "model", model, {"experiment": "tiny"})
    window = ["benchmark.window.size=60", "benchmark.window.crop=56", "benchmark.window.stride=28"]
    segment(monkeypatch, f"model={run}", f"data=[{shards}]", f"out={out}", *window, "device=cpu", "pictures=2")
    expected = by_hand(model, range(4))
    results = json.loads((out / "results.json").read_text())
    assert results["miou"] == measures(expected)["miou"] and results["images"] == 4
    assert results["best_constant_miou"] == best_constant_miou(expected)
    assert [one["name"] for one in results["classes"]] == list(NAMES)
    shown = [one["iou"] for one in results["classes"] if one["iou"] is not None]
    assert shown == [iou for iou in class_ious(expected).tolist() if iou == iou]
    assert results["paper_miou"]["V1-L (V1, table 8)"] == pytest.approx(0.594) and results["benchmark"] == "ADE20K"
    assert (out / "results.csv").read_text().startswith("name,iou,pixels\nground,")
    page = (out / "page.html").read_text()
    assert page.count("<img") == 6 and "59.4" in page and "box-0002" in page and "box-0001" not in page
    assert f"mIoU {100 * results['miou']:.1f} %" in "".join(capsys.readouterr().err.split("\n"))
    for data, message in (
        (f"{{other: {shards}}}", "holds results of other data (shards) and another window (ADE20K); choose"),
        (f"[{shards}]", "holds results of another window (ADE20K); choose another out="),
    ):
        with pytest.raises(SystemExit):
            segment(monkeypatch, f"model={run}", f"data={data}", f"out={out}", "device=cpu")
        assert message in capsys.readouterr().err.replace("\n", " ")
    again = [f"model={run}", f"data=[{shards}]", f"out={out}", *window, "device=cpu", "pictures=1"]
    with pytest.raises(SystemExit):
        segment(monkeypatch, *again, "limit=2")
    assert "holds results of another limit (none); choose another out=" in capsys.readouterr().err
    segment(monkeypatch, *again)


@pytest.mark.parametrize("change", ["model=nowhere", "data=[nowhere]", "benchmark.window.stride=0", "limit=x"])
def test_segment__what_cannot_be_is_one_sentence(model, tmp_path, monkeypatch, capsys, change):
    run, shards = tmp_path / "run", write_segmented(tmp_path / "shards", count=1)
    save_segmenter(run, model, {})
    with pytest.raises(SystemExit) as stopped:
        segment(monkeypatch, f"model={run}", f"data=[{shards}]", f"out={tmp_path / 'out'}", change)
    assert stopped.value.code == 2 and "error: " in capsys.readouterr().err


def test_segment__another_number_of_classes_is_refused(tmp_path, model, monkeypatch, capsys):
    shards = write_segmented(tmp_path / "shards", count=1)
    info = json.loads((shards / "dataset.json").read_text())
    (shards / "dataset.json").write_text(json.dumps({**info, "classes": ["a", "b"]}))
    save_segmenter(tmp_path / "run", model, {})
    with pytest.raises(SystemExit):
        segment(monkeypatch, f"model={tmp_path / 'run'}", f"data={shards}", f"out={tmp_path / 'out'}", "device=cpu")
    assert "names 2" in capsys.readouterr().err


@pytest.mark.parametrize("name, published", [("ade20k", 59.4), ("cityscapes", 84.8), ("cityscapes_ms", 86.2)])
def test_benchmark__has_the_papers_number(name, published):
    from depth_anything_train.building import build
    from depth_anything_train.composition import compose

    cfg = compose("segment", [f"benchmark={name}", "model=m", "data=d", "out=o"])
    assert next(iter(cfg.benchmark.paper.values())) == published
    assert isinstance(build(cfg.benchmark.window), SlidingWindow)
