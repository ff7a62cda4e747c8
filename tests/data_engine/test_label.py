import json
import pickle
import shutil
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xxhash
from scenes import encode, scene, write_shards

from data_engine.engines.base import label_shard
from data_engine.engines.local import LocalEngine
from data_engine.label import label
from data_engine.labelling.claim import claim
from data_engine.labelling.filters import Filters
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.settings import LabelSettings
from data_engine.labelling.teacher import ModelTeacher
from data_engine.verify import verify
from data_engine.writer import ShardWriter
from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.inference.preprocess import prepare
from depth_anything_train.runtime import UserError


def save_model(folder, seed=0, **extra):
    torch.manual_seed(seed)
    cfg = compose("train", ["experiment=tiny_teacher", "out=x"])
    model = DepthAnything(build(cfg.model), size=28, device="cpu", extra=extra)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "teacher")


@pytest.fixture
def teacher(model, tmp_path):
    return ModelTeacher(tmp_path / "teacher", device="cpu", threads=1)


def labeller(teacher, *, max_bad_share=0.1, workers=2, **settings):
    settings = LabelSettings(**{"size": 28, "batch_size": 2, "patience": 4, **settings})
    return ShardLabeller(teacher, settings, max_bad_share=max_bad_share, workers=workers)


def run(labeller, images, out):
    return label(labeller, images, out, engine=LocalEngine())


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_images(folder, *images):
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for number, image in enumerate(images):
            writer.add(f"s{number}", {"png": image if isinstance(image, bytes) else encode(image, "png")})
        writer.commit()
    return folder


def labels(folder):
    return [decode_label(*record.label(), {}) for record in ShardFolder(folder)]


def test_label__keys_and_order_are_those_of_the_images(teacher, image_shards, tmp_path):
    manifests = run(labeller(teacher), image_shards, tmp_path / "labels")
    assert [(manifest["count"], manifest["labelled"]) for manifest in manifests] == [(6, 6), (5, 5)]
    assert [r.key for r in ShardFolder(tmp_path / "labels")] == [r.key for r in ShardFolder(image_shards)]
    assert all(list(record.members) == ["disparity.dz16"] for record in ShardFolder(tmp_path / "labels"))


@pytest.mark.parametrize("flip", [False, True])
def test_label__holds_what_the_teacher_predicts(model, teacher, image_shards, tmp_path, flip):
    run(labeller(teacher, flip=flip), image_shards, tmp_path / "labels")
    for image, (disparity, valid) in zip(ShardFolder(image_shards), labels(tmp_path / "labels"), strict=True):
        batch = prepare([decode_image(image.image)], 28)
        expected = model.infer(batch).numpy()[0, 0]
        if flip:
            expected = (expected + model.infer(batch.flip(-1)).numpy()[0, 0, :, ::-1]) / 2
        assert valid.all()
        np.testing.assert_allclose(disparity, expected, atol=1e-4 * float(np.ptp(expected)) + 1e-6)


def test_label__twice_gives_identical_bytes_with_any_number_of_threads(model, image_shards, tmp_path):
    teacher = ModelTeacher(tmp_path / "teacher", device="cpu", threads=2)
    before = torch.get_num_threads()
    try:
        for name, workers in (("a", 1), ("b", 3)):
            torch.set_num_threads(workers)  # the teacher has its own number
            run(labeller(teacher, workers=workers), image_shards, tmp_path / name)
            assert torch.get_num_threads() == workers
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_label__continues_with_the_shards_that_have_no_manifest(teacher, image_shards, tmp_path):
    out = tmp_path / "labels"
    run(labeller(teacher), image_shards, out)
    before = contents(out)
    (out / "shard-000001.json").unlink()
    (out / "shard-000001.tar").write_bytes(b"half a shard")
    kept = (out / "shard-000000.tar").stat().st_mtime_ns
    run(labeller(teacher), image_shards, out)
    assert contents(out) == before
    assert (out / "shard-000000.tar").stat().st_mtime_ns == kept


def test_label__aspects_stretch_images_to_few_sizes(teacher, tmp_path):
    images = [scene(n, height, width)[0] for n, (height, width) in enumerate([(28, 56), (30, 52), (50, 50), (60, 30)])]
    write_images(tmp_path / "images", *images)
    run(labeller(teacher, aspects=[1, 2]), tmp_path / "images", tmp_path / "out")
    assert [disparity.shape for disparity, _ in labels(tmp_path / "out")] == [(28, 56), (28, 56), (28, 28), (28, 28)]


def test_label__a_bad_image_keeps_its_place_and_is_counted_by_reason(teacher, tmp_path):
    good = [encode(scene(number)[0], "png") for number in range(4)]
    write_images(tmp_path / "images", good[0], good[1], good[2][: len(good[2]) // 2], good[3])
    (manifest,) = run(labeller(teacher, max_bad_share=0.3), tmp_path / "images", tmp_path / "out")
    assert manifest["count"] == 4 and manifest["labelled"] == 3
    assert manifest["dropped"] == {"truncated_image": {"count": 1, "examples": ["s2"]}}
    assert [valid.any() for _, valid in labels(tmp_path / "out")] == [True, True, False, True]


def test_label__what_training_leaves_out_as_a_strip_is_not_shown_to_the_teacher(teacher, tmp_path):
    write_images(
        tmp_path / "images", scene(0)[0], np.zeros((28, 28 * 17, 3), np.uint8), np.zeros((1, 900, 3), np.uint8)
    )
    (manifest,) = run(labeller(teacher, max_bad_share=0.7), tmp_path / "images", tmp_path / "out")
    assert manifest["dropped"] == {"extreme_aspect": {"count": 2, "examples": ["s1", "s2"]}}


def test_label__too_many_bad_images_stop_the_run_and_leave_no_manifest(teacher, tmp_path):
    write_images(tmp_path / "images", encode(scene(0)[0], "png"), b"no image", b"cos\nsystem", b"")
    with pytest.raises(UserError, match="3 of 4 images.*max_bad_share"):
        run(labeller(teacher), tmp_path / "images", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("share", [-1, 2, float("nan")])
def test_labeller__a_share_of_bad_images_that_cannot_be_is_refused(teacher, share):
    with pytest.raises(UserError, match="max_bad_share to lie in 0 to 1"):
        labeller(teacher, max_bad_share=share)


def test_label__suspicious_images_are_labelled_and_flagged_by_number(teacher, tmp_path):
    sound, small = scene(0, 80, 80)[0], scene(1, 40, 40)[0]
    write_images(tmp_path / "images", sound, np.full((80, 80, 3), 255, np.uint8), small)
    filters = Filters(tiny=64, saturated=0.5, flat=None, flip=None)
    (manifest,) = run(labeller(teacher, filters=filters), tmp_path / "images", tmp_path / "out")
    assert manifest["flags"] == {"saturated": [1], "tiny": [2]}
    assert manifest["labelled"] == 3 and all(valid.all() for _, valid in labels(tmp_path / "out"))


def test_label__the_manifest_describes_the_shard(teacher, image_shards, tmp_path):
    manifest = run(labeller(teacher), image_shards, tmp_path / "out")[1]
    tar = (tmp_path / "out" / "shard-000001.tar").read_bytes()
    keys = [record.key for record in ShardFolder(image_shards)][6:]
    assert manifest == json.loads((tmp_path / "out" / "shard-000001.json").read_text())
    assert manifest["bytes"] == len(tar) and manifest["xxh3"] == xxhash.xxh3_64_hexdigest(tar)
    assert manifest["keys"] == xxhash.xxh3_64_hexdigest("".join(f"{key}\n" for key in keys).encode())
    assert manifest["output"] == ShardFolder(tmp_path / "out").shard(1).digest
    assert manifest["input"] == ShardFolder(image_shards).shard(1).digest
    assert manifest["teacher"] == teacher.hash and manifest["quantiser"] == {"codec": "dz16", "bits": 16}
    assert {"config", "code"} <= manifest.keys()


def test_label__says_what_is_on_record_about_the_teacher(image_shards, tmp_path):
    save_model(tmp_path / "known", experiment="mine", data=[{"source": "rooms"}], run={"command": "somewhere"})
    save_model(tmp_path / "unknown")  # the same weights
    teacher = ModelTeacher(tmp_path / "known", device="cpu")
    run(labeller(teacher), image_shards, tmp_path / "out")
    record = {"hash": teacher.hash, "experiment": "mine", "data": [{"source": "rooms"}]}
    assert ShardFolder(tmp_path / "out").info["teacher_record"] == record
    run(labeller(ModelTeacher(tmp_path / "unknown", device="cpu")), image_shards, tmp_path / "out")


def test_label__two_teachers_or_settings_are_never_mixed(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    save_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="different teacher"):
        run(labeller(ModelTeacher(tmp_path / "other", device="cpu")), image_shards, tmp_path / "out")
    with pytest.raises(UserError, match="different settings"):
        run(labeller(teacher, size=42), image_shards, tmp_path / "out")


def test_label__a_shard_of_another_configuration_is_refused(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "a")
    run(labeller(teacher, flip=True), image_shards, tmp_path / "b")
    name = "shard-000001"
    for extension in ("tar", "idx", "json"):
        (tmp_path / "a" / f"{name}.{extension}").write_bytes((tmp_path / "b" / f"{name}.{extension}").read_bytes())
    with pytest.raises(UserError, match=f"{name}.json was made with another config"):
        run(labeller(teacher), image_shards, tmp_path / "a")


def test_label__images_that_changed_are_noticed(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    for old in image_shards.glob("shard-000001.*"):
        old.unlink()
    with ShardWriter(image_shards / "shard-000001.tar") as writer:
        writer.add("other", {"jpg": encode(scene(7)[0])})
        writer.commit()
    with pytest.raises(UserError, match="images changed since"):
        run(labeller(teacher), image_shards, tmp_path / "out")


def test_label__never_writes_over_tars_that_are_no_labels(teacher, image_shards, tmp_path):
    (image_shards / "dataset.json").unlink()  # images of others
    other = tmp_path / "other"
    other.mkdir()
    (other / next(image_shards.glob("*.tar")).name).write_bytes(b"of somebody")
    for out in (image_shards, other):
        before = contents(out)
        with pytest.raises(UserError, match=r"Expected an empty folder or labels in out=.*but it holds .*\.tar"):
            run(labeller(teacher), image_shards, out)
        assert contents(out) == before


def test_label__images_that_moved_are_named_and_noted_by_the_next_run(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    image_shards.rename(tmp_path / "moved")
    mark = tmp_path / "out" / "dataset.json"
    for use in (lambda: PseudoLabelSource([tmp_path / "out"]), lambda: verify(tmp_path / "out", workers=0)):
        with pytest.raises(
            UserError, match=f'does not exist; if they moved, write where they are as "images" into {mark}'
        ):
            use()
    run(labeller(teacher), tmp_path / "moved", tmp_path / "out")  # writes it, or by hand
    assert json.loads(mark.read_text())["images"] == "../moved"
    assert len(PseudoLabelSource([tmp_path / "out"])) == 11
    assert not verify(tmp_path / "out", workers=0).num_wrong


@pytest.mark.parametrize("settings", [{"batch_size": -1}, {"batch_size": 0}, {"patience": 0}, {"size": 2.5}])
def test_settings__that_would_label_nothing_are_refused(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))} to be a whole number"):
        LabelSettings(**{"size": 28, **settings})


def test_label__a_run_folder_is_no_place_for_labels(teacher, image_shards, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="but it holds checkpoints; choose another"):
        run(labeller(teacher), image_shards, tmp_path / "run")


@pytest.mark.parametrize("aspects", [[1.0] * 9, [0], ["wide"]])
def test_settings__aspects_that_cannot_be_are_refused(aspects):
    with pytest.raises(UserError, match="at most 8 values of width / height"):
        LabelSettings(size=28, aspects=aspects)


def test_labeller__a_size_below_a_patch_is_refused_before_any_image(model, tmp_path):
    with pytest.raises(UserError, match=r"at least one patch \(14 pixels\)"):
        ShardLabeller(ModelTeacher(tmp_path / "teacher", device="cpu"), LabelSettings(size=13))


def test_labeller__compiling_needs_few_sizes(model, tmp_path):
    compiled = ModelTeacher(tmp_path / "teacher", device="cpu", compile=True)
    with pytest.raises(UserError, match="name a few aspects"):
        labeller(compiled)


@pytest.mark.parametrize("threads", [0, 1.5])
def test_teacher__a_number_of_threads_that_cannot_be_is_refused(model, tmp_path, threads):
    with pytest.raises(UserError, match="threads to be a whole number"):
        ModelTeacher(tmp_path / "teacher", threads=threads)


def test_label__continues_with_another_batch_size_and_says_so_in_the_manifest(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    (tmp_path / "out" / "shard-000001.json").unlink()
    other = ModelTeacher(tmp_path / "teacher", device="cpu", threads=2)
    manifests = run(labeller(other, batch_size=1, patience=9), image_shards, tmp_path / "out")
    assert [manifest["rounding"] for manifest in manifests] == [
        {"batch_size": 2, "patience": 4, "compile": False, "threads": 1},
        {"batch_size": 1, "patience": 9, "compile": False, "threads": 2},
    ]


def test_label__settings_of_the_teacher_are_those_of_the_labels(model, image_shards, tmp_path):
    exact, coarse = (ModelTeacher(tmp_path / "teacher", device="cpu", precision=p) for p in ("fp32", "bf16"))
    run(labeller(exact), image_shards, tmp_path / "out")
    with pytest.raises(UserError, match="different settings"):
        run(labeller(coarse), image_shards, tmp_path / "out")


def test_claim__of_several_configurations_one_gets_the_folder(teacher, image_shards, tmp_path):
    refused, tried = [], threading.Semaphore(0)
    start = threading.Barrier(8)

    def begin(size):
        start.wait()
        try:
            with claim(tmp_path / "labels", ShardFolder(image_shards), labeller(teacher, size=size)):
                for _ in range(7):
                    tried.acquire()
        except UserError as error:
            refused.append(str(error))
            tried.release()

    (tmp_path / "labels").mkdir()
    threads = [threading.Thread(target=begin, args=(28 + number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7 and all("was begun with different settings" in error for error in refused)
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["dataset.json"]
    assert 28 <= json.loads((tmp_path / "labels" / "dataset.json").read_text())["settings"]["size"] < 36


def test_label__that_ended_before_its_first_shard_leaves_the_folder_to_other_settings(teacher, image_shards, tmp_path):
    bad = write_images(tmp_path / "bad", b"no image", b"", b"cos")
    with pytest.raises(UserError, match="cannot be labelled"):
        run(labeller(teacher), bad, tmp_path / "out")
    run(labeller(teacher, flip=True), image_shards, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["settings"]["flip"]
    with pytest.raises(UserError, match=r"was begun with different settings \(.* was .*, is .*\); two kinds"):
        run(labeller(teacher), image_shards, tmp_path / "out")


def test_label__images_that_moved_are_known_by_their_content(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    (tmp_path / "out" / "shard-000001.json").unlink()
    (tmp_path / "out" / "shard-000001.tar").unlink()
    run(labeller(teacher), image_shards.rename(tmp_path / "moved"), tmp_path / "out")
    assert len(PseudoLabelSource([tmp_path / "out"])) == 11
    one = write_shards(tmp_path / "one", "images", counts=(1,))
    for extension in ("tar", "idx"):
        (one / f"shard-000000.{extension}").rename(one / f"another.{extension}")
    with pytest.raises(UserError, match="holds labels of other images .* than those in .*one"):
        run(labeller(teacher), one, tmp_path / "out")
    other = write_shards(tmp_path / "other", "images", first=300)
    with pytest.raises(UserError, match="The images changed since .*shard-00000"):
        run(labeller(teacher), other, tmp_path / "out")


@dataclass
class Intruder(LocalEngine):
    """Labels as another run would, with other settings, between what `label` looks at and what it starts."""

    other: ShardLabeller

    def run(self, labeller, images, waiting, out):
        label_shard(self.other, images, 0, out, lambda count: None)
        return LocalEngine().run(labeller, images, waiting, out)


def test_label__a_shard_that_another_configuration_finishes_meanwhile_is_refused(teacher, image_shards, tmp_path):
    with pytest.raises(UserError, match="shard-000000.json was made with another config"):
        label(labeller(teacher), image_shards, tmp_path / "out", engine=Intruder(labeller(teacher, flip=True)))


def test_label__an_image_shard_whose_manifest_would_be_dataset_json_is_refused(teacher, image_shards, tmp_path):
    for extension in ("tar", "idx"):
        (image_shards / f"shard-000001.{extension}").rename(image_shards / f"dataset.{extension}")
    with pytest.raises(UserError, match="cannot be named dataset.tar"):
        run(labeller(teacher), image_shards, tmp_path / "out")


def test_label__pseudo_labels_are_no_images(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    with pytest.raises(UserError, match="it holds pseudo labels"):
        run(labeller(teacher), tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize("lost", ["tar", "idx"])
def test_label__labels_that_were_lost_behind_their_manifest_are_made_again(teacher, image_shards, tmp_path, lost):
    run(labeller(teacher), image_shards, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / f"shard-000001.{lost}").unlink()
    run(labeller(teacher), image_shards, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_label__labels_that_were_cut_behind_their_manifest_are_made_again(teacher, image_shards, tmp_path):
    run(labeller(teacher), image_shards, tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "shard-000000.tar").write_bytes(before["shard-000000.tar"][:-1024])
    run(labeller(teacher), image_shards, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_label__a_dataset_json_that_was_deleted_is_written_again(teacher, image_shards, tmp_path):
    out = tmp_path / "out"
    run(labeller(teacher), image_shards, out)
    (out / "bad_keys.jsonl").touch()
    before = contents(out)
    (out / "dataset.json").unlink()
    run(labeller(teacher), image_shards, out)
    assert contents(out) == before
    (out / "dataset.json").unlink()
    with pytest.raises(UserError, match="Expected an empty folder or labels"):
        run(labeller(teacher, flip=True), image_shards, out)


def test_label__says_which_labels_have_no_images(teacher, image_shards, tmp_path, capsys):
    out = tmp_path / "out"
    run(labeller(teacher), image_shards, out)
    last = sorted(image_shards.glob("*.tar"))[-1]
    shutil.copytree(image_shards, tmp_path / "fewer")
    for suffix in (".tar", ".idx"):
        (tmp_path / "fewer" / last.name).with_suffix(suffix).unlink()
    info = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps({**info, "images": "../fewer"}))
    run(labeller(teacher), tmp_path / "fewer", out)
    assert f"1 shards of {out} have no images" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=rf"1 shards of .* have no images .*first {last.name}"):
        PseudoLabelSource([out])


@pytest.mark.parametrize("content", ["[]", "{}", '{"count": 6, "lab', ""])
def test_label__a_damaged_manifest_is_named(teacher, image_shards, tmp_path, content):
    run(labeller(teacher), image_shards, tmp_path / "out")
    mark = sorted((tmp_path / "out").glob("shard*.json"))[0]
    mark.write_text(content)
    with pytest.raises(UserError, match=f"{mark.name} is damaged"):
        run(labeller(teacher), image_shards, tmp_path / "out")


@pytest.mark.parametrize("change", [{"flags": []}, {"dropped": 0}, {"count": "6"}, {"output": None}])
def test_label__a_manifest_with_values_of_other_types_is_damaged(teacher, image_shards, tmp_path, change):
    run(labeller(teacher), image_shards, tmp_path / "out")
    mark = tmp_path / "out" / "shard-000001.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    with pytest.raises(UserError, match=f"{mark.name} is damaged: expected keys {next(iter(change))};"):
        run(labeller(teacher), image_shards, tmp_path / "out")


def test_teacher__weights_that_change_meanwhile_are_noticed(teacher, tmp_path):
    elsewhere = pickle.loads(pickle.dumps(teacher))  # as another process gets it: without weights
    save_model(tmp_path / "teacher", seed=1)
    with pytest.raises(UserError, match="changed while it was labelling"):
        elsewhere.network  # noqa: B018


def test_teacher__a_metric_model_is_refused(tmp_path):
    cfg = compose("train", ["experiment=tiny_teacher", "out=x", "model.kind=metric", "model.max_depth_m=10"])
    DepthAnything(build(cfg.model), size=28, device="cpu").save_pretrained(tmp_path / "metric")
    with pytest.raises(UserError, match="relative teacher"):
        ModelTeacher(tmp_path / "metric")


def test_label__from_a_store_is_the_same_as_from_disk(teacher, image_shards, tmp_path, cache, s3):
    address = s3.upload(image_shards, "label/images")
    run(labeller(teacher), image_shards, tmp_path / "local")
    run(labeller(teacher), compose("label", [f"shards={address}", "teacher=t", "out=o"]).shards, tmp_path / "remote")
    expected, found = contents(tmp_path / "local"), contents(tmp_path / "remote")
    assert json.loads(found.pop("dataset.json"))["images"] == address
    del expected["dataset.json"]
    assert found == expected


def test_label__of_a_store_is_not_fetched_again_to_find_out_what_is_done(teacher, image_shards, tmp_path, cache, s3):
    address = s3.upload(image_shards, "label/done")
    run(labeller(teacher), address, tmp_path / "labels")
    for copy in (cache / "shards").iterdir():
        copy.unlink()
    run(labeller(teacher), address, tmp_path / "labels")
    assert not [*(cache / "shards").iterdir()]
