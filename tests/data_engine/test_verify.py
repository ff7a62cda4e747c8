from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_engine.qa.dirty_labels import Limits
from data_engine.qa.sheet import contact_sheet
from data_engine.verify import main, verify
from data_engine.writer import ShardWriter
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.exclusions import BadKey, read_bad_keys, write_bad_keys
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.data.sources import LabelledSource
from depth_anything_train.runtime import UserError, fingerprint

HEIGHT, WIDTH = 12, 16


def image(seed: int = 0) -> bytes:
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def label(shape: tuple[int, int] = (HEIGHT, WIDTH), valid: bool = True) -> bytes:
    disparity = np.linspace(0, 2, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    return encode_dz16(disparity, np.full(shape, valid))


def write(path: Path, samples: dict[str, dict[str, bytes]]) -> Shard:
    with ShardWriter(path) as writer:
        for key, members in samples.items():
            writer.add(key, members)
        writer.commit()
    return Shard(path)


def finish(folder: Path, kind: str, **info: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"schema": 1, "kind": kind, "source": "test", **info}))
    return folder


def make_labelled(folder: Path, labels: bytes | None = None) -> Path:
    for shard in range(2):
        samples = {f"s{shard}{n}": {"png": image(n), "disparity.dz16": label(), "json": b"{}"} for n in range(3)}
        if labels is not None:
            samples["odd"] = {"png": image(), "disparity.dz16": labels, "json": b"{}"}
            labels = None
        write(folder / f"0000{shard}.tar", samples)
    return finish(folder, "labelled")


def make_pseudo(root: Path, keys: tuple[str, ...] = ("a", "b", "c"), invalid: str = "") -> Path:
    images = write(root / "images" / "x.tar", {key: {"png": image()} for key in ("a", "b", "c")})
    labels = write(root / "labels" / "x.tar", {key: {"disparity.dz16": label(valid=key != invalid)} for key in keys})
    made_with = {"teacher": "some hash", "config": fingerprint(settings := {"size": 28})}
    manifest = {"count": len(keys), "input": images.digest, "output": labels.digest, **made_with}
    (root / "labels" / "x.json").write_text(json.dumps(manifest))
    finish(root / "images", "images")
    return finish(root / "labels", "pseudo_labels", images="../images", teacher="some hash", settings=settings)


def problem(folder: Path, **settings: Any) -> str:
    (only,) = verify(folder, workers=0, **settings).wrong
    return only


def test_verify__sound_labelled_shards_have_no_problems(tmp_path: Path) -> None:
    findings = verify(make_labelled(tmp_path), workers=0)
    assert (findings.wrong, findings.samples, findings.labels) == ([], 6, 6)
    assert (findings.lowest, findings.highest, findings.valid_share) == (0, pytest.approx(2), 6)


def test_verify__does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    make_labelled(tmp_path, labels=b"damaged")
    assert verify(tmp_path, workers=2) == verify(tmp_path, workers=0)


@pytest.mark.parametrize(
    ("labels", "name"),
    [(b"damaged", "damaged_label"), (label((16, 12)), "label_size"), (label(valid=False), "no_valid_pixel")],
)
def test_verify__a_bad_label_is_found_deep_only(tmp_path: Path, labels: bytes, name: str) -> None:
    make_labelled(tmp_path, labels)
    assert name in problem(tmp_path) and "00000.tar, sample 3" in problem(tmp_path)
    assert verify(tmp_path, deep=False, workers=0).wrong == []


CONSTANT = encode_dz16(np.ones((HEIGHT, WIDTH), np.float32), np.ones((HEIGHT, WIDTH), bool))


def test_verify__constant_labels_are_counted_and_wrong(tmp_path: Path) -> None:
    make_labelled(tmp_path, CONSTANT)
    findings = verify(tmp_path, workers=0)
    assert findings.constant == 1 and [*findings.bad] == ["constant_label"]
    assert verify(tmp_path, workers=0, limits=Limits(min_range=0)).wrong == []


def test_verify__every_bad_sample_is_named_by_shard_number_key_and_reason(tmp_path: Path) -> None:
    make_labelled(tmp_path, CONSTANT)
    found: list[BadKey] = []
    verify(tmp_path, workers=0, on_bad=found.append)
    (bad,) = found
    digest = Shard(tmp_path / "00000.tar").digest
    assert dataclasses.replace(bad, message="") == BadKey("00000.tar", 3, "odd", "constant_label", digest=digest)


@pytest.mark.parametrize("deep", [True, False])
def test_verify__any_flipped_bit_is_found(tmp_path: Path, deep: bool) -> None:
    make_labelled(tmp_path)
    rng = np.random.default_rng(0)
    for path in (tmp_path / "00001.tar", tmp_path / "00001.idx"):
        whole = path.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 60).tolist():
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(flipped))
            assert "00001.tar" in verify(tmp_path, deep=deep, workers=0).wrong[0]
        path.write_bytes(whole)
    assert verify(tmp_path, workers=0).wrong == []


def test_verify__cut_missing_and_unfinished_shards_are_named_and_the_others_read(tmp_path: Path) -> None:
    make_labelled(tmp_path)
    tar = tmp_path / "00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: Shard(tar).entry(1).offset])
    assert "00000.tar" in problem(tmp_path) and verify(tmp_path, workers=0).samples == 3
    tar.write_bytes(whole)
    index_path(tar).unlink()
    assert "00000.idx" in problem(tmp_path)
    tar.unlink()
    finish(tmp_path, "labelled", count=6)
    assert problem(tmp_path) == "Expected 6 samples by dataset.json, but there are 3."
    finish(tmp_path, "labelled", count=6, shards=2)
    assert problem(tmp_path) == "00000.tar: expected this shard by dataset.json, but it does not exist."


def test_verify__a_number_of_shards_that_cannot_be_is_told_in_a_few_lines(tmp_path: Path) -> None:
    make_labelled(tmp_path)
    finish(tmp_path, "labelled", count=6, shards=10**15)
    problems = verify(tmp_path, workers=0).problems
    assert problems[0] == "00002.tar: expected this shard by dataset.json, but it does not exist."
    assert problems[100:] == [f"Expected {10**15} shards by dataset.json, but there are 2; 100 are named."]


def test_verify__a_count_of_shards_with_other_names_is_no_problem(tmp_path: Path) -> None:
    make_labelled(tmp_path / "a.tar")
    for number in range(2):
        for suffix in ("tar", "idx"):
            (tmp_path / f"a.tar/0000{number}.{suffix}").rename(tmp_path / f"a.tar/shard-{number}.{suffix}")
    finish(tmp_path / "a.tar", "labelled", count=6, shards=2)
    assert verify(tmp_path / "a.tar", workers=0).wrong == []
    finish(tmp_path / "a.tar", "labelled", count=7, shards=2)
    assert "Expected 7 samples" in problem(tmp_path / "a.tar")


@pytest.mark.parametrize("unreadable", ["x.tar", "x.json"])
def test_verify__what_cannot_be_opened_is_a_finding(
    tmp_path: Path, unreadable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read anything, so the refusal is made here."""
    labels = make_pseudo(tmp_path)
    index_path(tmp_path / "images" / "x.tar").unlink()
    real = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if os.fspath(path).endswith(f"labels/{unreadable}" if unreadable == "x.json" else f"images/{unreadable}"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr("os.open", refuse)
    if unreadable == "x.json":
        monkeypatch.setattr("data_engine.qa.checks.read_json", lambda path, **_: refuse(path, os.O_RDONLY))
    assert "Permission denied" in problem(labels)


def test_verify__images_without_our_index_are_read_as_they_are(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("a.b.png", image()), ("a.b.txt", b"caption"), ("c.png", image()[:-30])):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert "0.tar, sample 1: truncated_image" in problem(tmp_path)
    assert verify(tmp_path, deep=False, workers=0).wrong == []
    assert index_path(tmp_path / "0.tar").exists()  # whoever opens it next need not read it


def test_verify__pseudo_labels_of_images_of_others_need_no_index_beside_them(tmp_path: Path, cache: Path) -> None:
    labels = make_pseudo(tmp_path)
    assert verify(labels, workers=0).wrong == []
    (tmp_path / "images" / "x.idx").write_bytes(b"v1.2 3\n")  # of another program
    assert verify(labels, workers=0).wrong == []


def test_verify__a_link_in_a_tar_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert "link" in problem(tmp_path)


def test_verify__sound_pseudo_labels_have_no_problems(tmp_path: Path) -> None:
    findings = verify(make_pseudo(tmp_path, invalid="b"), workers=0)
    assert (findings.wrong, findings.labels, findings.all_invalid) == ([], 3, 1)


def test_verify__pseudo_labels_must_have_the_keys_of_their_images(tmp_path: Path) -> None:
    problems = verify(make_pseudo(tmp_path, keys=("a", "c", "b")), workers=0).wrong
    assert len(problems) == 2 and all("wrong_key" in one for one in problems)


def test_verify__pseudo_labels_must_be_as_many_as_their_images(tmp_path: Path) -> None:
    assert "2 labels for 3 images" in problem(make_pseudo(tmp_path, keys=("a", "b")))


def test_verify__pseudo_labels_must_agree_with_their_manifest(tmp_path: Path) -> None:
    labels = make_pseudo(tmp_path)
    manifest = labels / "x.json"
    whole = json.loads(manifest.read_text())
    for change, message in (
        ({"output": "0"}, "not those of the manifest"),
        ({"input": "0"}, "images changed"),
        ({"teacher": "another"}, "made with another teacher"),
    ):
        manifest.write_text(json.dumps(whole | change))
        assert message in problem(labels)
    for content in ("{", "[]"):
        manifest.write_text(content)
        assert "damaged" in problem(labels)
    manifest.unlink()
    assert "x.json" in problem(labels)


def test_verify__pseudo_labels_must_have_their_image_shards_and_the_other_way_round(tmp_path: Path) -> None:
    labels = make_pseudo(tmp_path)
    write(tmp_path / "images" / "y.tar", {"d": {"png": image()}})
    assert "y.tar: this image shard" in problem(labels)
    (tmp_path / "images" / "y.tar").unlink()
    (tmp_path / "images" / "x.tar").rename(tmp_path / "x.tar")
    assert "x.tar: expected image shard" in problem(labels)


def test_verify__nothing_to_check_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there are none"):
        verify(tmp_path)


def read_png(data: bytes) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


@pytest.mark.parametrize("make", [make_labelled, make_pseudo])
def test_contact_sheet__shows_images_and_labels(tmp_path: Path, make: Any) -> None:
    folder = ShardFolder(make(tmp_path))
    sheet = contact_sheet(folder, 2, seed=0)
    assert read_png(sheet).shape == (184, 6 * 244, 3)
    assert sheet == contact_sheet(folder, 2, seed=0)


def test_command__exit_status_says_whether_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_labelled(tmp_path / "shards")
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr("sys.argv", ["verify", f"shards={tmp_path / 'shards'}", f"sheet={sheet}", "workers=0"])
    main()
    assert read_png(sheet.read_bytes()).any()
    make_labelled(tmp_path / "shards", labels=b"damaged")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "00000.tar, sample 3: damaged_label" in capsys.readouterr().err


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit status of the command."""
    monkeypatch.setattr("sys.argv", ["verify", "workers=0", *arguments])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_command__says_how_damaged_pseudo_labels_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = make_pseudo(tmp_path)
    monkeypatch.setattr("sys.argv", ["verify", f"shards={labels}", "workers=0"])
    main()
    assert "made again" not in capsys.readouterr().err
    tar = bytearray((labels / "x.tar").read_bytes())
    tar[600] ^= 1
    (labels / "x.tar").write_bytes(tar)
    with pytest.raises(SystemExit):
        main()
    assert "made again by the same `label` once their NAME.json is deleted" in " ".join(capsys.readouterr().err.split())


def test_command__listed_samples_are_left_out_by_training_and_no_longer_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_labelled(tmp_path, CONSTANT)
    assert run(monkeypatch, f"shards={tmp_path}") == 1
    assert "bad_keys=true lists them" in capsys.readouterr().err
    assert len(LabelledSource([tmp_path])) == 7
    assert run(monkeypatch, f"shards={tmp_path}", "bad_keys=true") == 0
    source = LabelledSource([tmp_path])
    assert [source.load(k)["key"] for k in range(len(source))] == ["s00", "s01", "s02", "s10", "s11", "s12"]


def test_command__what_is_wrong_with_a_whole_shard_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_labelled(tmp_path)
    tar = tmp_path / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert run(monkeypatch, f"shards={tmp_path}", "bad_keys=true") == 1


def test_command__only_what_is_decoded_can_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_labelled(tmp_path)
    assert run(monkeypatch, f"shards={tmp_path}", "bad_keys=true", "deep=false") == 2
    assert not (tmp_path / "bad_keys.jsonl").exists()


@pytest.mark.parametrize("value", ["true", "folder", "file/page.html"])
def test_command__a_page_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_labelled(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("data_engine.verify.verify", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr("sys.argv", ["verify", f"shards={folder}", f"page={value}", "workers=0"])
    with pytest.raises(SystemExit) as status:
        main()
    assert status.value.code == 2 and "to write" in capsys.readouterr().err


def test_verify__labels_that_do_not_name_their_images_are_refused(tmp_path: Path) -> None:
    folder = make_pseudo(tmp_path)
    (folder / "dataset.json").write_text('{"schema": 1, "kind": "pseudo_labels"}')
    with pytest.raises(UserError, match="to name its images"):
        verify(folder, workers=0)


def test_contact_sheet__of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_samples to be a whole number"):
        contact_sheet(ShardFolder(make_labelled(tmp_path / "a")), 0, seed=0)
    with ShardWriter(tmp_path / "empty" / "00000.tar") as writer:
        writer.commit()
    with pytest.raises(UserError, match="Expected samples for the sheet in .*empty, but there are none"):
        contact_sheet(ShardFolder(tmp_path / "empty"), 1, seed=0)


def test_verify__reads_a_store_as_it_reads_a_disk(cache, s3, labelled_shards, image_shards):
    """Labelled and image shards in a store; a flipped bit there is named with its shard and sample."""
    for folder in (labelled_shards, image_shards):
        local, remote = verify(folder, workers=0), verify(s3.upload(folder, f"verify/{folder.name}"), workers=0)
        assert remote == local and not remote.problems and remote.samples == 11
    tar = sorted(labelled_shards.glob("*.tar"))[1]
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    s3.put(f"verify/labelled/{tar.name}", bytes(content))
    found = verify("s3://bucket/verify/labelled", workers=0)
    assert [bad.shard for bad in found.bad["damaged_sample"].examples] == [tar.name] and found.samples == 10


def test_command__lines_of_others_on_the_list_are_kept_while_their_shards_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_labelled(tmp_path, CONSTANT)
    digest = Shard(tmp_path / "00001.tar").digest
    copy = BadKey("00001.tar", 0, "s10", "test_image", "copy", digest)
    by_hand = BadKey("00001.tar", 1, "", "ugly")
    outdated = [BadKey("00001.tar", 2, "", "test_image", digest="0" * 16), BadKey("00007.tar", 2, "", "ugly")]
    fixed = BadKey("00001.tar", 2, "s12", "constant_label", "was constant", digest)
    write_bad_keys(tmp_path, [copy, by_hand, *outdated, fixed])
    for said in ("2 lines of", ""):
        assert run(monkeypatch, f"shards={tmp_path}", "bad_keys=true") == 0
        assert said in capsys.readouterr().err.replace("\n", "")
        kept = [*read_bad_keys(tmp_path)]
        assert kept[:2] == [copy, by_hand] and [bad.reason for bad in kept[2:]] == ["constant_label"]
    assert len(LabelledSource([tmp_path])) == 4


def test_verify__of_labels_reads_the_images_only_when_it_is_deep(tmp_path: Path) -> None:
    folder = make_pseudo(tmp_path)
    images = tmp_path / "images" / "x.tar"
    content = bytearray(images.read_bytes())
    content[600] ^= 1
    images.write_bytes(content)
    assert verify(folder, deep=False, workers=0).wrong == []
    assert [*verify(folder, workers=0).bad] == ["damaged_sample"]
