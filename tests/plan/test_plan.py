import json

import numpy as np
import pytest
from pictures import disparity_label, picture, png, write_folder

from depth_anything_train.composition import compose
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.plan.command import estimate, main
from depth_anything_train.plan.speed import measure_labels, read_speed
from depth_anything_train.plan.work import read_work
from depth_anything_train.runtime import UserError


def plan(*overrides):
    cfg = compose("plan", list(overrides))
    work = read_work(cfg)
    return estimate(
        work,
        read_speed(cfg, work),
        gpus=cfg.gpus,
        price=cfg.price,
        bytes_per_pixel=cfg.bytes_per_pixel,
        peak_tflops=cfg.peak_tflops,
    )


def test_plan__labelling_takes_images_by_throughput():
    figures = plan("model=vits", "images=36e5", "throughput=100", "gpus=4", "price=2", "aspect=1", "bytes_per_pixel=1")
    assert (figures["gpu_hours"], figures["hours"], figures["cost"]) == (10, 2.5, 20)
    assert figures["label_bytes"] == 36e5 * 518 * 518
    assert figures["total_flops"] == 36e5 * figures["flops"]


def test_plan__speed_is_a_share_of_the_peak_and_the_share_comes_back():
    figures = plan("model=vits", "images=1000", "peak_tflops=100", "utilisation=0.4")
    assert figures["images_per_second_per_gpu"] == pytest.approx(40e12 / figures["flops"])
    assert figures["utilisation"] == pytest.approx(0.4)
    rate = figures["images_per_second_per_gpu"]
    assert plan("model=vits", "images=1", f"throughput={rate}", "peak_tflops=200")["utilisation"] == pytest.approx(0.2)


def test_plan__training_counts_backward_and_the_frozen_encoder():
    student = plan("experiment=v1_student_vits", "throughput=1")
    teacher = plan("experiment=v1_teacher_vits", "throughput=1")
    label = plan("model=vits", "images=1", "aspect=1", "throughput=1")
    assert student["images"] == 480_000 * 192 and teacher["images"] == 480_000 * 64
    assert teacher["flops"] == pytest.approx(3 * label["flops"], rel=0.01)
    assert student["flops"] - teacher["flops"] == pytest.approx(2 / 3 * 93.4e9, rel=0.01)
    assert student["label_bytes"] is None


def test_plan__training_at_a_size_that_is_no_square():
    metric = plan("experiment=metric_nyu", "throughput=1")
    label = plan("model=vitl", "images=1", "size=392", f"aspect={518 / 392}", "throughput=1")
    assert metric["flops"] == pytest.approx(3 * label["flops"], rel=0.05)


def test_plan__training_at_another_size_is_that_of_train():
    small, wide = (plan("experiment=tiny_student", f"size={size}", "throughput=1") for size in ("28", "[28,42]"))
    assert (small["height"], small["width"], wide["height"], wide["width"]) == (28, 28, 28, 42)
    assert small["flops"] < wide["flops"]


def test_plan__sides_are_those_that_label_would_use():
    figures = plan("model=vits", "images=1", "throughput=1", "size=518", "aspect=1.3333")
    assert (figures["height"], figures["width"]) == (518, 686)


@pytest.mark.parametrize("work", [("model=test", "images=8", "size=28"), ("experiment=tiny_student",)])
def test_plan__measures_what_this_machine_does(work, monkeypatch):
    monkeypatch.setattr("depth_anything_train.plan.speed.LEAST_SECONDS", 0.01)
    figures = plan(*work, "measure=true", "device=cpu", "batch_size=3")
    assert 0.01 < figures["images_per_second_per_gpu"] < 1e6
    assert figures["speed_source"] == "measured on cpu, batches of 3"


def test_measure_labels__is_what_they_take_in_the_shards(tmp_path):
    write_folder(tmp_path / "images", {"kind": "images"}, [[(f"{n}", {"png": png(picture(n))}) for n in range(5)]])
    labels = [(f"{n}", {"disparity.dz16": disparity_label(n)}) for n in range(5)]
    folder = write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../images"}, [labels])
    pixels = sum(picture(n)[..., 0].size for n in range(5))
    shard = ShardFolder(folder).shard(0)
    stored = sum(shard.entry(n).extent for n in range(5))
    assert measure_labels(str(folder)) == pytest.approx(stored / pixels)
    with pytest.raises(UserError, match="Expected pseudo labels"):
        measure_labels(str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "one of the two"),
        (("model=vits", "experiment=v1_student_vits"), "one of the two"),
        (("model=vits", "throughput=1"), "Expected images="),
        (("model=vitx", "images=1", "throughput=1"), "did you mean model=vits"),
        (("experiment=v1_studnt_vits", "throughput=1"), "did you mean experiment=v1_student_vits"),
        (("experiment=segmentation_ade20k", "throughput=1"), "another decoder"),
        (("model=test", "images=1", "size=28"), "how fast a GPU is"),
        (("model=test", "images=1", "size=28", "throughput=1", "measure=true"), "got both"),
        (("model=test", "images=1", "size=28", "throughput=-1"), "above 0"),
        (("model=test", "images=1", "size=28", "peak_tflops=1", "utilisation=2"), "utilisation as a share"),
        (("model=test", "images=1", "size=28", "aspect=0.5", "throughput=1"), "aspect"),
        (("model=test", "images=1", "size=28", "throughput=1", "gpus=0"), "gpus to be a whole number"),
        (("model=test", "images=1", "size=28", "throughput=1", "price=-1"), "price of at least 0"),
        (("model=test", "images=1", "size=28", "throughput=1", "price=nan"), "price of at least 0"),
        (("model=test", "images=1", "size=28", "throughput=1", "bytes_per_pixel=-1"), "bytes_per_pixel above 0"),
        (("model=test", "images=1", "size=28", "throughput=1", "bytes_per_pixel=0"), "bytes_per_pixel above 0"),
        (("model=test", "images=1", "size=28", "throughput=inf"), "throughput above 0"),
        (("model=test", "images=1", "size=28", "aspect=wide", "throughput=1"), "Expected a number for aspect"),
        (
            ("experiment=tiny_student", "images=1", "aspect=2", "throughput=1"),
            "without images= and aspect=, which say what",
        ),
        (("experiment=tiny_student", "size=30", "throughput=1"), "multiple"),
        (("experiment=tiny_student", "size=700000", "throughput=1"), "at most"),
    ],
)
def test_plan__what_makes_no_sense_is_explained(overrides, message):
    with pytest.raises(UserError, match=message):
        plan(*overrides)


def test_command__prints_a_table_and_writes_the_figures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "plan.json"
    arguments = ["model=test", "size=28", "aspect=1", "images=7200", "throughput=2", f"out={out}", "price=3"]
    monkeypatch.setattr("sys.argv", ["plan", *arguments])
    main()
    figures = json.loads(out.read_text())
    assert figures["gpu_hours"] == 1 and figures["cost"] == 3
    shown = capsys.readouterr().err
    assert "7,200" in shown and "1.0 hours on 1 GPUs" in shown and "3 at 3 a GPU hour" in shown
    assert np.isfinite([value for value in figures.values() if isinstance(value, float)]).all()


@pytest.mark.parametrize("images", ["nan", "inf", "0", "many"])
def test_plan__a_number_of_images_that_cannot_be_is_refused(images):
    with pytest.raises(UserError, match="Expected images= as a number of at least 1"):
        read_work(compose("plan", ["model=test", f"images={images}"]))
