import base64
import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import build
from scenes import encode, scene, write_shards

from data_engine.writer import ShardWriter
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.shards import Shard
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.report.command import _protocol, main
from depth_anything_train.report.comparison import Comparison, read_evaluations, verdict
from depth_anything_train.report.curves import SECTIONS, run_curves
from depth_anything_train.report.pictures import example_rows
from depth_anything_train.runtime import UserError

ABS_REL = {
    "teacher": {"rooms": 0.1234, "fog": 0.4321, "streets": 0.2},
    "student": {"rooms": 0.1111, "fog": 0.5555, "streets": 0.2},
    "mean_map": {"rooms": 0.2345, "fog": 0.5432, "streets": 0.3},
}
PROTOCOL = DepthProtocol().to_dict()


def write_evaluation(folder, abs_rel, *, protocol=PROTOCOL, images=7, data="a", size=None):
    groups = {name: {"abs_rel": v, "delta1": 1 - v, "images": images} for name, v in abs_rel.items()}
    content = {"groups": groups, "protocol": protocol, "skipped": {"truncated_image": 2}}
    content["model"] = {"hash": "0" * 64, "size": size}
    content["data"] = {name: {"hash": data + name, "samples": images} for name in abs_rel}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return {name: write_evaluation(folder / name, values) for name, values in ABS_REL.items()}


def write_run(folder, seed):
    torch.manual_seed(seed)
    network = build_depth_model(
        name="test", embed_dim=32, depth=4, num_heads=2, features=8, out_channels=[8] * 4, image_size=28
    )
    DepthAnything(network, size=28, device="cpu").save_pretrained(folder / "model")
    rows = [
        {"step": k + 1, "train/loss": 1 / (k + 1), "train/loss/labelled": 0.5, "train/lr/encoder": 1} for k in range(9)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"step": k + 1, "machine/images_per_second": 30.0} for k in range(9)]
    (folder / "machine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_tests(folder):
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for number in range(9):
            image, disparity = scene(number)
            disparity[:3] = 0  # sky
            meta = {"unit": "m", "domain": ("rooms", "fog", "streets")[number % 3]}
            label = encode_dz16(disparity, np.ones(disparity.shape, bool))
            members = {"jpg": encode(image), "disparity.dz16": label, "json": json.dumps(meta).encode()}
            writer.add(f"scene-{number}", members)
        writer.commit()
    (folder / "dataset.json").write_text('{"schema": 1, "kind": "labelled", "source": "scenes"}')
    return folder


def write_pseudo_labels(folder, images):
    for shard in sorted(images.glob("*.tar")):
        count = 6 if "000000" in shard.name else 5
        first = 100 if count == 6 else 106
        with ShardWriter(folder / shard.name) as writer:
            for number in range(first, first + count):
                disparity = scene(number)[1]
                label = encode_dz16(disparity, np.ones(disparity.shape, bool))
                writer.add(f"scene-{number:04d}", {"disparity.dz16": label})
            written = writer.commit()
        manifest = {"input": Shard(shard).digest, "output": written.digest}
        (folder / shard.name).with_suffix(".json").write_text(json.dumps(manifest))
    info = {"schema": 1, "kind": "pseudo_labels", "source": "scenes", "images": f"../{images.name}"}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, evaluations):
    """The page of a whole chain, as text; written twice, to see that it comes out the same."""
    folder = tmp_path_factory.mktemp("page")
    runs = {name: write_run(folder / name, seed) for seed, name in enumerate(("teacher", "student"))}
    images = write_shards(folder / "images", "images", first=100)
    tests, labels = write_tests(folder / "tests"), write_pseudo_labels(folder / "labels", images)
    stage = {"name": "teacher", "command": "depth-anything train out=a<b", "seconds": 61.4}
    (folder / "stages").mkdir()
    (folder / "stages" / "01-teacher.json").write_text(json.dumps(stage))

    def mapping(values):
        return "{" + ",".join(f"{name}:{value}" for name, value in values.items()) + "}"

    arguments = [
        f"runs={mapping(runs)}",
        f"models={mapping(runs)}",
        f"evaluations={mapping(evaluations)}",
        f"examples={tests}",
        "split_by=domain",
        "labelled_groups=[rooms]",
        "note='All <b> three.'",
        f"labels={labels}",
        f"stages={folder / 'stages'}",
        f"out={folder / 'report.html'}",
    ]
    pages = []
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["depth-anything", *arguments])
            main()
        pages.append((folder / "report.html").read_text())
    assert pages[0] == pages[1], "equal content should give equal bytes"
    return pages[0]


class Elements(HTMLParser):
    """Every element with its attributes, every text, and whether all elements were closed."""

    VOID = {"meta", "img", "path", "use"}

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_page__is_whole_and_loads_nothing(page):
    elements = Elements(page)
    assert elements.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.found}
    assert "http" not in page and "@import" not in page
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:image/jpeg;base64,", "#"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_page__pictures_decode_and_have_alternative_texts(page):
    images = [attributes for tag, attributes in Elements(page).found if tag == "img"]
    # 3 test sets x 2 examples x (image, truth, 2 predictions, 2 errors), 8 pseudo labels with images, 5 x 2 at the top
    assert len(images) == 3 * 2 * 6 + 8 * 2 + 5 * 2
    for attributes in images:
        data = base64.b64decode(attributes["src"].partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (42, 56, 3)
        assert len(attributes["alt"]) > 10


def test_page__holds_every_number_of_the_table(page):
    texts = Elements(page).texts
    for values in ABS_REL.values():
        for value in values.values():
            assert f"{value:.4f}" in texts and f"{1 - value:.4f}" in texts
        assert f"{sum(values.values()) / 3:.4f}" in texts
    assert f"{0.1111 / 0.2345:.3f}" in texts and f"{0.5555 / 0.4321:.3f}" in texts
    assert any("2 × truncated_image" in text for text in texts)


def test_page__tells_what_ran_and_what_was_drawn(page):
    texts = Elements(page).texts
    assert "depth-anything train out=a<b" in texts and "61 s" in texts
    assert sum(tag == "svg" for tag, _ in Elements(page).found) == 4  # two losses, a learning rate, images a second
    assert ["Losses", "What the model does", "What the machine does"] == [t for t in texts if t in SECTIONS.values()]
    assert {"learning rate encoder", "images per second"} <= set(texts)
    assert any("protocol" in text.lower() and "least squares" in text for text in texts)


def test_page__says_the_note_as_it_was_written(page):
    assert "All <b> three." in Elements(page).texts


def test_comparison__marks_the_best_and_puts_labelled_sets_first(evaluations):
    comparison = read_evaluations(evaluations, baseline="mean_map", labelled_groups=["rooms"])
    assert comparison.groups == ["rooms", "fog", "streets"]
    best = {row.name: row.best("abs_rel") for row in comparison.rows}
    assert (best["rooms"], best["fog"], best["streets"]) == ({"student"}, {"teacher"}, {"teacher", "student"})
    assert best["mean of labelled sets"] == {"student"} and best["mean of other sets"] == {"teacher"}
    assert comparison.rows[0].best("delta1") == {"student"}


def test_verdict__counts_losses_and_ties_as_plainly_as_wins(evaluations):
    sentences = verdict(read_evaluations(evaluations, baseline="mean_map"))
    assert len(sentences) == 3
    assert "on 3 of 3" in sentences[0]
    assert sentences[1].startswith("The student has a lower AbsRel than the mean map on 2 of 3 test sets; not on fog.")
    assert "on 1 of 3 test sets; not on fog; equal on streets" in sentences[2]
    assert "0.289 against 0.252, 14.7\u00a0% higher" in sentences[2]


def test_evaluations_of_different_protocols_or_images_share_no_table(evaluations, tmp_path):
    other = write_evaluation(tmp_path / "other", ABS_REL["student"], protocol=PROTOCOL | {"crop": "garg"})
    with pytest.raises(UserError, match="differ in protocol"):
        read_evaluations({**evaluations, "other": other}, baseline=None)
    fewer = write_evaluation(tmp_path / "fewer", ABS_REL["student"], images=6)
    with pytest.raises(UserError, match="differ in numbers of images"):
        read_evaluations({**evaluations, "fewer": fewer}, baseline=None)
    with pytest.raises(UserError, match="labelled_groups names"):
        read_evaluations(evaluations, baseline=None, labelled_groups=["room"])
    segmented = tmp_path / "segmented"
    segmented.mkdir()
    (segmented / "results.json").write_text('{"model": {"hash": "0"}, "miou": 0.5}')
    with pytest.raises(UserError, match="against depth maps, but segmented has no abs_rel"):
        read_evaluations({**evaluations, "segmented": str(segmented)}, baseline=None)


@pytest.mark.parametrize(
    "path", ["protocol", "skipped", "data", "model hash", "data fog hash", "groups fog images", "groups fog delta1"]
)
def test_evaluations__one_that_lacks_a_key_is_named_with_it(evaluations, tmp_path, path):
    file = Path(write_evaluation(tmp_path / "old", ABS_REL["student"])) / "results.json"
    content = json.loads(file.read_text())
    *parents, key = path.split()
    del functools.reduce(dict.__getitem__, parents, content)[key]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"key {key} in {file}|old has no abs_rel and delta1"):
        read_evaluations({"old": str(file.parent), **evaluations}, baseline=None)


def test_evaluations__of_a_version_whose_protocol_knows_more_are_to_be_made_again(evaluations, tmp_path):
    newer = write_evaluation(tmp_path / "newer", ABS_REL["student"], protocol=PROTOCOL | {"weather": "fog"})
    with pytest.raises(UserError, match=r"in the results of newer, but it has .*weather; evaluate again"):
        read_evaluations({"newer": newer}, baseline=None)


def test_verdict__says_first_that_a_model_was_judged_on_other_samples_of_the_same_names(evaluations, tmp_path):
    other = write_evaluation(tmp_path / "other", ABS_REL["student"], data="b")
    comparison = read_evaluations({**evaluations, "student": other}, baseline="mean_map")
    doubt = "The student was judged on other samples of rooms, fog, streets than the teacher"
    said = verdict(comparison)
    assert said[0].startswith(doubt) and said[1:] == verdict(read_evaluations(evaluations, baseline="mean_map"))


def test_verdict__says_where_the_networks_saw_other_sizes(evaluations, tmp_path):
    other = {name: write_evaluation(tmp_path / name, ABS_REL[name], size=56) for name in ("teacher", "student")}
    one = read_evaluations({**evaluations, "student": other["student"]}, baseline="mean_map")
    expected = "The models saw the images at different sizes: the teacher at its own size, the student at 56 pixels."
    assert expected in verdict(one) and one.size == "different sizes"
    for alike in (evaluations, {**evaluations, **other}):  # a mean map sees none
        comparison = read_evaluations(alike, baseline="mean_map")
        assert not any("different sizes" in sentence for sentence in verdict(comparison))
    assert comparison.size == 56


def test_comparison__labelled_sets_may_be_named_by_a_pattern(evaluations):
    comparison = read_evaluations(evaluations, baseline=None, labelled_groups=["r*", "*g"])
    assert {row.name for row in comparison.rows if row.labelled} == {"rooms", "fog"}


def test_run_curves__draw_long_runs_in_little_space_and_leave_out_what_is_not_finite():
    rows = [{"step": k, "train/loss/pseudo": float("nan") if k == 5 else 1.0} for k in range(20_000)]
    (curve,) = run_curves({"student": rows, "teacher": []})
    assert curve.title == "pseudo" and "student from 1 to 1" in curve.description
    assert len(curve.svg) < 40_000 and "nan" not in curve.svg


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected something to report"),
        (["runs={a:nowhere}"], "does not exist"),
        (["evaluations={a:nowhere}"], "does not exist"),
        (["stages=[1]"], "Expected stages"),
    ],
)
def test_command__says_what_is_missing(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["depth-anything", f"out={tmp_path / 'r.html'}", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_command__needs_none_of_its_parts(monkeypatch, tmp_path, image_shards):
    labels = write_pseudo_labels(tmp_path / "labels", image_shards)
    monkeypatch.setattr("sys.argv", ["depth-anything", f"out={tmp_path / 'r.html'}", f"labels={labels}"])
    main()
    page = (tmp_path / "r.html").read_text()
    assert "Pseudo labels" in page and "Results" not in page and "Training" not in page


def test_example_rows__of_few_images_shows_each_once(tmp_path):
    folder = write_shards(tmp_path / "few", "labelled", counts=(2,))
    rows = example_rows({"few": str(folder)}, {}, DepthProtocol(), split_by=None, per_group=4)
    assert len({row.key for row in rows}) == len(rows) == 2
    with pytest.raises(UserError, match="split_by, but got weather; there are "):
        example_rows({"few": str(folder)}, {}, DepthProtocol(), split_by="weather", per_group=4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [(dict(kind="metric", max_depth_m=20.0), "nothing aligned"), ({}, "on the scale of the label after alignment")],
)
def test_page__says_of_metric_models_that_nothing_was_aligned(monkeypatch, tmp_path, settings, said):
    DepthAnything(build(**settings), size=28, device="cpu").save_pretrained(tmp_path / "model")
    tests, out = write_tests(tmp_path / "tests"), tmp_path / "r.html"
    command = ["depth-anything", f"models={{mine:{tmp_path / 'model'}}}", f"examples={tests}", f"out={out}"]
    monkeypatch.setattr("sys.argv", [*command, "per_group=1"])
    main()
    assert [word in out.read_text() for word in ("nothing aligned", "after alignment")].count(True) == 1
    assert said in out.read_text()


def test_protocol__of_results_in_metres_refuses_a_relative_model():
    """Its disparity would be drawn and judged as if it were 1 / metres."""
    metres = Comparison([], None, DepthProtocol(name="metric", alignment="none"), [], {}, {}, {}, {})
    with pytest.raises(UserError, match="judges metres, which the relative"):
        _protocol(metres, {"mine": DepthAnything(build(), size=28, device="cpu")})
