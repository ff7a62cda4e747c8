import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from scenes import encode, scene, write_shards

from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labeller import LabelSettings, ShardLabeller
from data_engine.writer import ShardWriter
from depth_anything_train.command import build, compose
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.preprocess import prepare
from depth_anything_train.runtime import UserError


def make_teacher(seed=0):
    torch.manual_seed(seed)
    cfg = compose("train", ["experiment=tiny_teacher", "out=x"])
    return DepthAnything(build(cfg.model), size=28, device="cpu")


@pytest.fixture
def teacher():
    return make_teacher()


def labeller(teacher, **options):
    return ShardLabeller(teacher, LabelSettings(size=28, batch_size=2, windows=2), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_label__keys_and_order_are_those_of_the_images(teacher, image_shards, tmp_path):
    totals = label(labeller(teacher), image_shards, tmp_path / "labels", engine=LocalEngine())
    assert totals == {"count": 11, "labelled": 11}
    assert [r.key for r in ShardFolder(tmp_path / "labels")] == [r.key for r in ShardFolder(image_shards)]
    assert all(list(record.members) == ["disparity.dz16"] for record in ShardFolder(tmp_path / "labels"))


def test_label__holds_what_the_teacher_predicts(teacher, image_shards, tmp_path):
    label(labeller(teacher), image_shards, tmp_path / "labels", engine=LocalEngine())
    from depth_anything_train.data.images import decode_image

    for image, stored in zip(ShardFolder(image_shards), ShardFolder(tmp_path / "labels"), strict=True):
        disparity, valid = decode_label(*stored.label(), {})
        expected = teacher.infer(prepare([decode_image(image.image)], 28)).numpy()[0, 0]
        assert valid.all()
        np.testing.assert_allclose(disparity, expected, atol=1e-4 * float(np.ptp(expected)) + 1e-6)


def test_label__twice_gives_identical_bytes_with_any_number_of_threads(teacher, image_shards, tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        label(labeller(teacher, workers=workers), image_shards, tmp_path / name, engine=LocalEngine())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_label__continues_with_the_shards_that_have_no_manifest(teacher, image_shards, tmp_path):
    out = tmp_path / "labels"
    label(labeller(teacher), image_shards, out, engine=LocalEngine())
    before = contents(out)
    (out / "shard-000001.json").unlink()
    (out / "shard-000001.tar").write_bytes(b"half a shard")
    kept = (out / "shard-000000.tar").stat().st_mtime_ns
    label(labeller(teacher), image_shards, out, engine=LocalEngine())
    assert contents(out) == before
    assert (out / "shard-000000.tar").stat().st_mtime_ns == kept


def test_label__a_kill_leaves_nothing_torn_and_the_rerun_gives_the_same_bytes(teacher, tmp_path):
    images = write_shards(tmp_path / "images", "images", counts=(6, 6, 6, 6))
    label(labeller(teacher), images, tmp_path / "undisturbed", engine=LocalEngine())
    teacher.save_pretrained(tmp_path / "teacher")
    command = [sys.executable, "-m", "depth_anything_train.cli", "label", f"teacher={tmp_path / 'teacher'}"]
    command += [f"shards={images}", f"out={tmp_path / 'out'}", "batch_size=2", "windows=2", "device=cpu"]

    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "out" / "shard-000000.json").exists():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = [path.stem for path in (tmp_path / "out").glob("shard-*.json")]
    for name in done:
        assert (tmp_path / "out" / f"{name}.tar").read_bytes() == (
            tmp_path / "undisturbed" / f"{name}.tar"
        ).read_bytes()

    subprocess.run(command, check=True, capture_output=True)
    after = {name: data for name, data in contents(tmp_path / "out").items() if not name.startswith(".")}
    assert after == contents(tmp_path / "undisturbed")


def test_label__a_bad_image_keeps_its_place_and_is_counted_by_reason(teacher, tmp_path):
    with ShardWriter(tmp_path / "images" / "shard-000000.tar") as writer:
        for number in range(4):
            good = encode(scene(number)[0])
            writer.add(f"s{number}", {"jpg": good[: len(good) // 2] if number == 2 else good})
        writer.commit()
    out = tmp_path / "labels"
    label(labeller(teacher, max_bad_share=0.3), tmp_path / "images", out, engine=LocalEngine())
    manifest = json.loads((out / "shard-000000.json").read_text())
    assert manifest["count"] == 4 and manifest["labelled"] == 3
    assert list(manifest["dropped"].values()) == [{"count": 1, "examples": ["s2"]}]
    valid = [decode_label(*record.label(), {})[1].any() for record in ShardFolder(out)]
    assert valid == [True, True, False, True]


def test_label__too_many_bad_images_stop_the_run_and_leave_no_manifest(teacher, tmp_path):
    with ShardWriter(tmp_path / "images" / "shard-000000.tar") as writer:
        for number in range(4):
            writer.add(f"s{number}", {"jpg": b"no image at all" if number else encode(scene(0)[0])})
        writer.commit()
    with pytest.raises(UserError, match="3 of 4 images.*max_bad_share"):
        label(labeller(teacher), tmp_path / "images", tmp_path / "out", engine=LocalEngine())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


def test_label__says_what_is_on_record_about_the_teacher(teacher, image_shards, tmp_path):
    teacher.extra.update(experiment="mine", data=[{"source": "rooms"}], run={"command": "somewhere"})
    label(labeller(teacher), image_shards, tmp_path / "out", engine=LocalEngine())
    record = {"hash": teacher.hash, "experiment": "mine", "data": [{"source": "rooms"}]}
    assert ShardFolder(tmp_path / "out").info["teacher_record"] == record
    label(labeller(make_teacher()), image_shards, tmp_path / "out", engine=LocalEngine())  # the same weights


def test_label__two_teachers_or_settings_are_never_mixed(teacher, image_shards, tmp_path):
    label(labeller(teacher), image_shards, tmp_path / "out", engine=LocalEngine())
    with pytest.raises(UserError, match="another teacher"):
        label(labeller(make_teacher(seed=1)), image_shards, tmp_path / "out", engine=LocalEngine())
    with pytest.raises(UserError, match="another settings"):
        other = ShardLabeller(teacher, LabelSettings(size=42))
        label(other, image_shards, tmp_path / "out", engine=LocalEngine())


def test_label__images_that_changed_are_noticed(teacher, image_shards, tmp_path):
    label(labeller(teacher), image_shards, tmp_path / "out", engine=LocalEngine())
    for old in image_shards.glob("shard-000001.*"):
        old.unlink()
    with ShardWriter(image_shards / "shard-000001.tar") as writer:
        writer.add("other", {"jpg": encode(scene(7)[0])})
        writer.commit()
    with pytest.raises(UserError, match="changed since"):
        label(labeller(teacher), image_shards, tmp_path / "out", engine=LocalEngine())


@pytest.mark.parametrize("settings", [{"batch_size": -1}, {"batch_size": 0}, {"windows": 0}, {"size": 2.5}])
def test_settings__that_would_label_nothing_are_refused(settings):
    with pytest.raises(UserError, match=f"whole number of at least 1 for {next(iter(settings))}"):
        LabelSettings(**{"size": 28, **settings})


def test_label__a_folder_that_failed_before_its_first_shard_can_be_used_again(teacher, image_shards, tmp_path):
    refused = ShardLabeller(teacher, LabelSettings(size=3))
    with pytest.raises(UserError, match="unusable_size"):
        label(refused, image_shards, tmp_path / "out", engine=LocalEngine())
    good = ShardLabeller(teacher, LabelSettings(size=28))
    assert label(good, image_shards, tmp_path / "out", engine=LocalEngine())["labelled"] == 11


def test_label__pseudo_labels_are_no_images(teacher, image_shards, tmp_path):
    settings = ShardLabeller(teacher, LabelSettings(size=28))
    label(settings, image_shards, tmp_path / "out", engine=LocalEngine())
    with pytest.raises(UserError, match="it holds pseudo labels"):
        label(settings, tmp_path / "out", tmp_path / "again", engine=LocalEngine())


def test_label__a_manifest_without_its_keys_is_named(teacher, image_shards, tmp_path):
    settings = ShardLabeller(teacher, LabelSettings(size=28))
    label(settings, image_shards, tmp_path / "out", engine=LocalEngine())
    mark = sorted((tmp_path / "out").glob("shard*.json"))[0]
    mark.write_text("{}")
    with pytest.raises(UserError, match=f"{mark.name} is damaged"):
        label(settings, image_shards, tmp_path / "out", engine=LocalEngine())
