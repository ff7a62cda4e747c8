import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import labelled_members, write_folder

from depth_anything_train.data.exclusions import BadKey, Selection, read_bad_keys, select, write_bad_keys
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import LabelledSource, PseudoLabelSource
from depth_anything_train.runtime import UserError


def bad(folder, shard, number, reason="constant_label", **more):
    opened = ShardFolder(folder)
    names = [path.name for path in opened.shards]
    digest = opened.shard(names.index(shard)).digest
    return BadKey(shard, number, f"p{number}", reason, digest=digest, **more)


def keys(source):
    return [source.load(index)["key"] for index in range(len(source))]


def flag(folder, shard, **flags):
    path = Path(folder) / f"{shard}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flags": flags}))


@pytest.mark.parametrize("seed", range(20))
def test_selection__is_what_a_list_without_the_left_out_would_be(seed):
    rng = np.random.default_rng(seed)
    total = int(rng.integers(1, 60))
    left_out = rng.permutation(total)[: rng.integers(0, total + 1)].tolist()
    kept = [number for number in range(total) if number not in left_out]
    selection = Selection(total, ((number, "bad") for number in left_out))
    assert [selection[k] for k in range(len(selection))] == kept
    starts = [0, *sorted(rng.integers(0, total + 1, 3).tolist()), total]
    counts = [sum(first <= number < end for number in kept) for first, end in zip(starts, starts[1:], strict=False)]
    assert selection.counts(starts) == counts


@pytest.mark.parametrize("k", [-1, 3])
def test_selection__ends_where_its_samples_end(k):
    with pytest.raises(IndexError):
        Selection(5, [(0, "a"), (4, "b")])[k]


def test_selection__its_digest_tells_which_samples_are_left():
    digests = {Selection(*a).digest for a in ((9, []), (9, [(1, "a")]), (9, [(2, "a")]), (8, []))}
    assert len(digests) == 4
    assert Selection(9, [(1, "a")]).digest == Selection(9, [(1, "another reason")]).digest


def test_selection__of_several_reasons_for_a_sample_the_first_counts():
    given = [(3, "flat"), (1, "tiny"), (3, "tiny"), (3, "saturated"), (0, "tiny")]
    selection = Selection(5, given)
    assert selection.left_out.tolist() == [0, 1, 3] and selection.reasons == {"flat": 1, "tiny": 2}


def test_selection__takes_a_few_bytes_for_each_sample_left_out():
    tracemalloc.start()
    try:
        selection = Selection(3 * 10**5, ((number, "flat") for number in range(0, 3 * 10**5, 3)))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 17 * len(selection.left_out) and peak < 70 * len(selection.left_out)


def test_bad_keys__come_back_as_they_were_written(tmp_path):
    rows = [BadKey("0.tar", 3, "a/ä b", "constant_label", "why", "ff"), BadKey("1.tar", 0, "", "mismatch", score=0.25)]
    write_bad_keys(tmp_path, rows)
    assert [*read_bad_keys(tmp_path)] == rows
    write_bad_keys(tmp_path, [])
    assert [*read_bad_keys(tmp_path)] == []


def test_bad_keys__may_be_written_by_hand(tmp_path):
    (tmp_path / "bad_keys.jsonl").write_text('{"shard": "0.tar", "number": 3, "reason": "upside_down"}\n')
    assert [*read_bad_keys(tmp_path)] == [BadKey("0.tar", 3, "", "upside_down")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"shard": "0.tar"}',
        '{"shard": "0.tar", "number": 1, "reasons": "x"}',
        '{"shard": ["0.tar"], "number": 1, "reason": "x"}',
        '{"shard": "0.tar", "number": "1", "reason": "x"}',
        '{"shard": "0.tar", "number": 1, "reason": null}',
    ],
)
def test_bad_keys__a_line_that_cannot_be_read_is_named(tmp_path, line):
    (tmp_path / "bad_keys.jsonl").write_text(f'{{"shard": "0.tar", "number": 3, "reason": "odd"}}\n{line}\n')
    with pytest.raises(UserError, match="Line 2 of .*bad_keys.jsonl cannot be read"):
        list(read_bad_keys(tmp_path))


def test_source__leaves_bad_keys_out_and_says_why(labelled_folders):
    first, _ = map(Path, labelled_folders)
    write_bad_keys(first, [bad(first, "00000.tar", 1), bad(first, "00001.tar", 3), bad(first, "00000.tar", 1, "odd")])
    source = LabelledSource(labelled_folders)
    assert keys(source) == [f"p{n}" for n in range(13) if n not in (1, 8)]
    assert source.shard_counts() == [[4, 3], [4]]
    records = source.record()
    assert (records[0]["images"], records[0]["left_out"]) == (7, {"constant_label": 2})
    assert "left_out" not in records[1]


def test_bad_keys__a_later_line_of_an_older_shard_is_refused_too(labelled_folders):
    right = bad(labelled_folders[0], "00000.tar", 0)
    write_bad_keys(Path(labelled_folders[0]), [right, replace(right, number=1, digest="0" * 16)])
    with pytest.raises(UserError, match="made from another 00000.tar"):
        LabelledSource(labelled_folders)


def test_source__its_digest_changes_with_the_shards(tmp_path):
    shards = [[[(f"p{n}", labelled_members(n)) for n in numbers]] for numbers in ((0, 1), (0, 2))]
    folders = [write_folder(tmp_path / f"{k}", {"kind": "labelled"}, samples) for k, samples in enumerate(shards)]
    first, again, other = (LabelledSource([folder]).digest for folder in (folders[0], *folders))
    assert first == again != other


def test_source__its_digest_changes_with_the_list(labelled_folders):
    before = LabelledSource(labelled_folders).digest
    write_bad_keys(Path(labelled_folders[0]), [bad(labelled_folders[0], "00000.tar", 1)])
    assert LabelledSource(labelled_folders).digest != before


def test_source__a_suspicion_is_left_out_only_where_its_reason_is_skipped(labelled_folders):
    first = Path(labelled_folders[0])
    write_bad_keys(first, [bad(first, "00000.tar", 2, "mismatch", score=0.1)])
    assert len(LabelledSource(labelled_folders)) == 13
    assert len(LabelledSource(labelled_folders, skip=["mismatch"])) == 12


def test_source__pseudo_labels_leave_out_flagged_samples_of_skipped_reasons(pseudo_folder):
    flag(pseudo_folder, "00000", flat=[0, 3], saturated=[3, 4])
    flag(pseudo_folder, "00001", flat=[7])
    left = {"": 20, "flat": 17, "saturated": 18, "flat saturated": 16, "none_such": 20}
    for skip, count in left.items():
        assert len(PseudoLabelSource([pseudo_folder], skip=skip.split())) == count
    source = PseudoLabelSource([pseudo_folder], skip=["flat"])
    assert keys(source) == [f"p{n}" for n in range(100, 120) if n not in (100, 103, 119)]
    assert source.record()[0]["left_out"] == {"flat": 3}
    assert [*source.left_out()] == [f"3 of 20 samples of {pseudo_folder} are left out: 3 x flat."]


@pytest.mark.parametrize("content", ["[]", "{}", '{"flags": ["flat"]}', '{"flags": {"flat": 3}}', ""])
def test_source__a_damaged_manifest_is_named_where_flags_are_skipped(pseudo_folder, content):
    (Path(pseudo_folder) / "00000.json").write_text(content)
    with pytest.raises(UserError, match="00000.json is damaged"):
        PseudoLabelSource([pseudo_folder], skip=["flat"])


def test_left_out__a_reason_that_flags_nothing_is_told(pseudo_folder):
    flag(pseudo_folder, "00000", flat=[0, 3])
    assert [*PseudoLabelSource([pseudo_folder]).left_out()] == []
    (said,) = PseudoLabelSource([pseudo_folder], skip=["flaat"]).left_out()
    assert said == f"0 of 20 samples of {pseudo_folder} are left out: none is flagged flaat."


def test_left_out__a_reason_that_flags_nothing_is_told_beside_those_that_do(labelled_folders):
    folder = labelled_folders[0]
    write_bad_keys(Path(folder), [bad(folder, ShardFolder(folder).shards[0].name, 0)])
    (said,) = LabelledSource([folder], skip=["mismach", "constant_label"]).left_out()
    assert said.endswith("are left out: 1 x constant_label, none is flagged mismach.")


def test_source__bad_images_leave_their_pseudo_labels_out(pseudo_folder):
    images = pseudo_folder.parent / "images"
    write_bad_keys(images, [bad(images, "00001.tar", 0, "truncated_image")])
    write_bad_keys(pseudo_folder, [bad(pseudo_folder, "00000.tar", 0, "damaged_label")])
    assert keys(PseudoLabelSource([pseudo_folder])) == [f"p{n}" for n in range(101, 120) if n != 112]


def test_select__a_list_of_other_shards_is_refused(labelled_folders):
    first = Path(labelled_folders[0])
    right = bad(first, "00000.tar", 1)
    for wrong in (replace(right, digest="0" * 16), replace(right, shard="77777.tar")):
        write_bad_keys(first, [wrong])
        with pytest.raises(UserError, match="made from another .*verify bad_keys=true"):
            LabelledSource(labelled_folders)
    for number in (5, -1):
        write_bad_keys(first, [replace(right, number=number)])
        with pytest.raises(UserError, match=f"sample {number} of 00000.tar, which holds 5"):
            LabelledSource(labelled_folders)


def test_select__nothing_left_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "one", {"kind": "labelled"}, [[("a", labelled_members(0))]])
    write_bad_keys(folder, [bad(folder, "00000.tar", 0)])
    opened = ShardFolder(folder)
    with pytest.raises(UserError, match="All 1 samples .* left out .1 x constant_label"):
        select(opened, opened)
