import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pictures import disparity_label, labelled_members, picture, png, write_folder
from PIL import Image

from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.shards import Shard
from depth_anything_train.data.sources import (
    LabelledSource,
    PseudoLabelSource,
    SemanticSource,
)
from depth_anything_train.runtime import UserError


def rewrite_info(folder, **changes):
    path = Path(folder) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def blue(sample):
    return int(sample["image"][0, 0, 2])


def test_labelled_source__numbers_all_samples_of_all_folders(labelled_folders):
    source = LabelledSource(labelled_folders)
    assert len(source) == 13
    samples = [source.load(index) for index in range(13)]
    assert [blue(sample) for sample in samples] == list(range(13))
    assert [sample["key"] for sample in samples] == [f"p{n}" for n in range(13)]


def test_labelled_source__stretches_each_label_to_0_to_1(labelled_folders):
    sample = LabelledSource(labelled_folders).load(2)
    assert sample["disparity"].dtype == np.float32
    assert sample["disparity"].min() == 0 and sample["disparity"].max() == 1
    assert not sample["valid"][0].any() and sample["valid"][1:].all()
    columns = np.linspace(0, 1, sample["disparity"].shape[1])
    assert np.allclose(sample["disparity"][1:], columns, atol=1e-4)


def sky_shards(folder, sky):
    """One sample: half a row at 1 m, half at 2 m, nothing in the upper rows; `sky` is its mask."""
    depth_m = np.zeros((28, 44), np.float32)
    depth_m[20:, :22], depth_m[20:, 22:] = 1, 2
    file = io.BytesIO()
    np.save(file, depth_m)
    meta = json.dumps({"scale": 1.0, "unit": "m"}).encode()
    members = {"png": png(picture(0)), "depth.npy": file.getvalue(), "json": meta, "sky.png": png(sky)}
    return write_folder(folder, {"kind": "labelled"}, [[("a", members)]])


def test_labelled_source__sky_is_farther_than_anything_labelled(tmp_path):
    sky = np.zeros((14, 22), np.uint8)  # half the size of the label
    sky[:5] = 255
    folder = sky_shards(tmp_path / "sky", sky)
    sample = LabelledSource([folder]).load(0)
    assert sample["valid"][:10].all() and not sample["valid"][10:20].any() and sample["valid"][20:].all()
    assert (sample["disparity"][:10] == 0).all()
    assert sample["disparity"][20, 0] == 1 and sample["disparity"][20, 43] == 0.5  # 1/m, and so 0.5/m: sky is 0/m
    without = LabelledSource([folder], sky=False).load(0)
    assert not without["valid"][:20].any() and without["disparity"][20, 43] == 0


def test_labelled_source__a_label_is_not_overruled_by_sky(tmp_path):
    folder = sky_shards(tmp_path / "sky", np.full((28, 44), 255, np.uint8))
    sample = LabelledSource([folder]).load(0)
    assert sample["valid"].all() and sample["disparity"][20, 0] == 1 and sample["disparity"][20, 43] == 0.5


def test_pseudo_label_source__joins_labels_with_their_images(pseudo_folder):
    source = PseudoLabelSource([pseudo_folder])
    samples = [source.load(index) for index in range(len(source))]
    assert [blue(sample) for sample in samples] == list(range(100, 120))
    assert all(sample["image"].shape[:2] == sample["disparity"].shape for sample in samples)


def test_pseudo_label_source__decodes_large_images_smaller_on_request(tmp_path):
    file = io.BytesIO()
    Image.fromarray(picture(3)).resize((264, 168)).save(file, "JPEG")
    write_folder(tmp_path / "images", {"kind": "images"}, [[("a", {"jpg": file.getvalue()})]])
    labels = [[("a", {"disparity.dz16": disparity_label(3)})]]
    folder = write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../images"}, labels)
    whole, reduced = (PseudoLabelSource([folder], reduce_to=side).load(0) for side in (None, 80))
    assert whole["image"].shape == (168, 264, 3) and reduced["image"].shape == (84, 132, 3)
    assert np.array_equal(whole["disparity"], reduced["disparity"])
    with pytest.raises(UserError, match=r"reduce_to to be a whole number of at least 1, but got \[70, 98\]"):
        PseudoLabelSource([folder], reduce_to=[70, 98])


def test_pseudo_label_source__accepts_labelled_shards_as_images(labelled_folders, tmp_path):
    labels = [[(f"p{n}", {"disparity.dz16": disparity_label(n)}) for n in shard] for shard in (range(5), range(5, 9))]
    folder = write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../first"}, labels)
    assert [blue(PseudoLabelSource([folder]).load(index)) for index in (0, 8)] == [0, 8]


def test_pseudo_label_source__finds_a_label_that_stands_at_another_image(pseudo_folder):
    numbers = [[*range(100, 110), 111, 110], range(112, 120)]
    images = [[(f"p{n}", {"png": png(picture(n))}) for n in shard] for shard in numbers]
    write_folder(pseudo_folder.parent / "images", {"kind": "images"}, images)
    for mark in pseudo_folder.glob("0*.json"):
        made_from = {"input": Shard(pseudo_folder.parent / "images" / f"{mark.stem}.tar").digest}
        mark.write_text(json.dumps({**json.loads(mark.read_text()), **made_from}))
    source = PseudoLabelSource([pseudo_folder])
    assert blue(source.load(9)) == 109
    with pytest.raises(BadSample, match="p110") as error:
        source.load(10)
    assert error.value.reason == "key_mismatch"


def test_pseudo_label_source__refuses_a_folder_that_is_not_done(pseudo_folder):
    (pseudo_folder / "00001.json").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards .* no labels .* run the same `label` again"):
        PseudoLabelSource([pseudo_folder])


def test_pseudo_label_source__refuses_labels_of_other_images(pseudo_folder, labelled_folders):
    rewrite_info(pseudo_folder, images="../first")
    with pytest.raises(
        UserError, match=r"By its manifest .*00000.json labels another .*first/00000.tar than .* 1 more of 2"
    ):
        PseudoLabelSource([pseudo_folder])


def test_pseudo_label_source__refuses_images_that_were_replaced_under_the_same_keys(pseudo_folder):
    images = [[(f"p{n}", {"png": png(picture(n + 1))}) for n in shard] for shard in (range(100, 112), range(112, 120))]
    write_folder(pseudo_folder.parent / "images", {"kind": "images"}, images)
    with pytest.raises(UserError, match="labels another"):
        PseudoLabelSource([pseudo_folder])


@pytest.mark.parametrize("content", ["", "{}", '{"input": 3, "output": "a"}'])
def test_pseudo_label_source__names_a_manifest_that_says_nothing(pseudo_folder, content):
    (pseudo_folder / "00001.json").write_text(content)
    with pytest.raises(UserError, match=r"00001\.json is damaged"):
        PseudoLabelSource([pseudo_folder])


def test_pseudo_label_source__names_labels_without_images(pseudo_folder):
    for suffix in ("tar", "idx"):
        (pseudo_folder.parent / "images" / f"00001.{suffix}").unlink()
    with pytest.raises(UserError, match=r"1 shards of .* have no images .*first 00001.tar"):
        PseudoLabelSource([pseudo_folder])


def test_pseudo_label_source__a_link_to_labels_leads_to_the_images_that_were_labelled(pseudo_folder, tmp_path):
    near = tmp_path / "elsewhere"
    (near / "labels").mkdir(parents=True)
    write_folder(near / "images", {"kind": "images"}, [[("p100", {"png": png(picture(7))})]])  # the wrong ones
    (near / "labels" / "linked").symlink_to(pseudo_folder)
    (near / "folder").symlink_to(pseudo_folder.parent)
    for path in (near / "labels" / "linked", near / "folder" / pseudo_folder.name):
        source = PseudoLabelSource([path])
        assert [blue(source.load(index)) for index in (0, 19)] == [100, 119]


@pytest.mark.parametrize(("images", "message"), [(None, "name its images"), ("../nowhere", "does not exist")])
def test_pseudo_label_source__refuses_labels_without_images(pseudo_folder, images, message):
    rewrite_info(pseudo_folder, images=images)
    with pytest.raises(UserError, match=message):
        PseudoLabelSource([pseudo_folder])


def test_record__says_what_dataset_json_knows(pseudo_folder, labelled_folders, tmp_path):
    first, second = (Path(folder) for folder in labelled_folders)
    rewrite_info(first, source="hrwsi", licences={"CC BY 4.0": 9})
    records = LabelledSource([first, second]).record()
    assert records[0] == {"source": "hrwsi", "kind": "labelled", "images": 9, "licences": {"CC BY 4.0": 9}}
    assert records[1].keys() == {"source", "kind", "images"}

    images = (Path(pseudo_folder) / json.loads((Path(pseudo_folder) / "dataset.json").read_text())["images"]).resolve()
    rewrite_info(images, licences={"unknown": 20})
    teacher = {"hash": "0" * 64, "experiment": "tiny_teacher", "data": records}
    rewrite_info(pseudo_folder, source="sa1b", teacher_record=teacher)
    assert PseudoLabelSource([pseudo_folder]).record() == [
        {"source": "sa1b", "kind": "pseudo_labels", "images": 20, "licences": {"unknown": 20}, "teacher": teacher}
    ]


def test_semantic_source__gives_classes_beside_the_image(labelled_folders):
    sample = SemanticSource(labelled_folders).load(10)
    assert blue(sample) == 10
    assert sample["classes"].dtype == np.uint8
    assert (sample["classes"] == sample["image"][..., 1] // 4).all()


def test_semantic_source__needs_classes(tmp_path):
    members = labelled_members(0)
    folder = write_folder(
        tmp_path / "plain",
        {"kind": "labelled"},
        [[("a", {"png": members["png"]}), ("b", members | {"classes.png": b"no"}), ("c", members)]],
    )
    source = SemanticSource([folder])
    for index, reason in enumerate(["missing_label", "damaged_label"]):
        with pytest.raises(BadSample) as error:
            source.load(index)
        assert error.value.reason == reason
    assert source.load(2)["key"] == "c"


@pytest.mark.parametrize("folders", [[], "one"])
def test_source__needs_a_list_of_folders(folders):
    with pytest.raises(UserError, match="list of folders with labelled shards"):
        LabelledSource(folders)


def test_source__refuses_another_kind(labelled_folders, pseudo_folder):
    with pytest.raises(UserError, match="Expected labelled shards in .* says pseudo_labels"):
        LabelledSource([*labelled_folders, pseudo_folder])


def test_source__can_travel_to_a_worker(labelled_folders, pseudo_folder):
    for source in (LabelledSource(labelled_folders), PseudoLabelSource([pseudo_folder])):
        copy = pickle.loads(pickle.dumps(source))
        assert (copy.load(7)["image"] == source.load(7)["image"]).all()


def test_labelled_source__names_what_is_wrong_with_a_sample(tmp_path):
    good = labelled_members(0)
    nothing = np.zeros(picture(0).shape[:2], np.float32)
    bad = {
        "truncated_image": good | {"png": good["png"][:100]},
        "label_size": good | {"png": png(picture(1))},
        "no_valid_pixel": good | {"disparity.dz16": encode_dz16(nothing, nothing > 0)},
        "damaged_label": good | {"disparity.dz16": good["disparity.dz16"][:-1]},
        "missing_label": {"png": good["png"]},
    }
    folder = write_folder(tmp_path / "bad", {"kind": "labelled"}, [list(bad.items())])
    for index, reason in enumerate(bad):
        with pytest.raises(BadSample) as error:
            LabelledSource([folder]).load(index)
        assert error.value.reason == reason


def test_pseudo__a_label_of_whole_patches_belongs_to_an_image_of_any_size(tmp_path):
    """The teacher saw 28 x 42 pixels of an image of 30 x 40: the aspects differ by an eighth."""
    write_folder(tmp_path / "images", {"kind": "images"}, [[("a", {"png": png(np.zeros((30, 40, 3), np.uint8))})]])
    disparity = np.linspace(0, 1, 28 * 42, dtype=np.float32).reshape(28, 42)
    label = {"disparity.dz16": encode_dz16(disparity, np.ones((28, 42), bool))}
    labels = write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../images"}, [[("a", label)]])
    sample = PseudoLabelSource([labels]).load(0)
    assert sample["image"].shape == (30, 40, 3) and sample["disparity"].shape == (28, 42)
    assert sample["valid"].all()


def test_source__refuses_a_folder_that_stands_twice(labelled_folders, tmp_path):
    (tmp_path / "link").symlink_to(labelled_folders[0])
    for again in (labelled_folders[0], f"{labelled_folders[0]}/", tmp_path / "link"):
        with pytest.raises(UserError, match="stands twice among the folders with labelled shards"):
            LabelledSource([*labelled_folders, again])
