"""Marking the sky: what counts as sky, and what the stage leaves as it was."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scenes import encode, scene
from segformers import save

from data_engine.ingest import sky
from data_engine.ingest.sky import Sky
from data_engine.ingest.sky_segmenter import SkySegmenter
from data_engine.prepare import prepare
from data_engine.verify import verify
from data_engine.writer import ShardWriter
from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import LabelledSource
from depth_anything_train.runtime import UserError

pytest.importorskip("transformers")

HEIGHT, WIDTH = 60, 80


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    yield
    sky._folder.cache_clear()
    sky._segmenter.cache_clear()


class BlueIsSky(torch.nn.Module):
    """A segmenter with a label map of its own, which takes every blue pixel for sky."""

    config = SimpleNamespace(id2label={0: "ground", 1: "sky"})

    def forward(self, pixels: torch.Tensor) -> Any:
        blue = pixels[:, 2] - pixels[:, 0]
        return SimpleNamespace(logits=torch.stack([-blue, blue], 1) * 20)


def to_tensor(images: list[NDArray[np.uint8]], **_: Any) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.from_numpy(images[0]).permute(2, 0, 1)[None] / 255}


def blue_above(row: int) -> NDArray[np.uint8]:
    image = np.full((HEIGHT, WIDTH, 3), (120, 110, 90), np.uint8)
    image[:row] = 40, 90, 230
    return image


def depth_below(row: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float32]:
    depth_m = np.zeros((height, width), np.float32)
    depth_m[row:] = np.linspace(20, 2, height - row, dtype=np.float32)[:, None]
    return depth_m


def npy(depth_m: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, depth_m)
    return file.getvalue()


def write(folder: Path, samples: list[tuple[NDArray[np.uint8], NDArray[np.float32]]], **more: bytes) -> Path:
    """Labelled shards of two samples each; `more` are members of every sample, their dots written as `_`."""
    meta = json.dumps({"source": "world", "unit": "m", "scale": 1.0, "licence": "CC0"}).encode()
    for start in range(0, len(samples), 2):
        with ShardWriter(folder / f"{start:05d}.tar") as writer:
            for number, (image, depth_m) in enumerate(samples[start : start + 2], start):
                members = {"png": encode(image, "png"), "depth.npy": npy(depth_m), "json": meta}
                writer.add(f"s{number}", members | {name.replace("_", "."): data for name, data in more.items()})
            writer.commit()
    info = {"schema": 1, "kind": "labelled", "source": "world", "classes": ["a"], "settings": {"part": "all"}}
    (folder / "dataset.json").write_text(json.dumps(info | {"count": len(samples), "notes": {"x": 1}}))
    return folder


def mark(monkeypatch: pytest.MonkeyPatch, root: Path, out: Path, **settings: Any) -> list[NDArray[np.bool_]]:
    """The masks that the stage writes with a segmenter that knows blue."""
    blue = SkySegmenter(BlueIsSky(), to_tensor, device="cpu")
    monkeypatch.setattr(sky, "_segmenter", lambda *_: blue)
    monkeypatch.setattr(SkySegmenter, "hash", "blue")
    prepare(Sky(str(root), "blue", **settings), out, samples_per_shard=2, workers=0)
    return [cv2.imdecode(np.frombuffer(record.members["sky.png"], np.uint8), -1) > 0 for record in ShardFolder(out)]  # type: ignore[operator]


def rows(first: int, end: int) -> NDArray[np.bool_]:
    index = np.arange(HEIGHT)[:, None] + np.zeros((1, WIDTH), int)
    return (index >= first) & (index < end)


def test_sky__is_marked_only_where_nothing_is_labelled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    samples = [(blue_above(30), depth_below(40)), (blue_above(30), depth_below(28)), (blue_above(0), depth_below(40))]
    masks = mark(monkeypatch, write(tmp_path / "in", samples), tmp_path / "out")
    for found, expected in zip(masks, (rows(0, 30), rows(0, 28), rows(0, 0)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sky__has_the_size_of_the_label(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = write(tmp_path / "in", [(blue_above(30), depth_below(20, 30, 40))])
    (found,) = mark(monkeypatch, root, tmp_path / "out")
    np.testing.assert_array_equal(found, rows(0, 30)[::2, ::2])


def test_sky__a_region_in_which_things_were_measured_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A blue wall above, with half of it measured; and a sparse label, whose few points are enough to tell."""
    wall = depth_below(30)
    wall[:30:2] = 4
    sparse = np.zeros((HEIGHT, WIDTH), np.float32)
    sparse[::6, ::6] = 5
    samples = [(blue_above(30), wall), (blue_above(30), sparse)]
    for found in mark(monkeypatch, write(tmp_path / "in", samples), tmp_path / "out"):
        assert not found.any()


def test_sky__tiny_regions_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = blue_above(20)
    image[30:32, 50:52] = 40, 90, 230  # 4 of 4800 pixels
    root = write(tmp_path / "in", [(image, depth_below(40))])
    (found,) = mark(monkeypatch, root, tmp_path / "out")
    np.testing.assert_array_equal(found, rows(0, 20))
    (found,) = mark(monkeypatch, root, tmp_path / "all", smallest=0)
    assert found.sum() == rows(0, 20).sum() + 4


def test_sky__everything_else_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    samples = [(blue_above(30), depth_below(40))] * 5
    root = write(tmp_path / "in", samples, classes_png=b"whatever")
    mark(monkeypatch, root, tmp_path / "out")
    before, after = ShardFolder(root), ShardFolder(tmp_path / "out")
    for one, other in zip(before, after, strict=True):
        assert other.key == one.key
        assert {**one.members, "sky.png": other.members["sky.png"]} == other.members
    assert (after.info["source"], after.info["classes"], after.info["count"]) == ("world", ["a"], 5)
    assert after.info["licences"] == {"CC0": 5} and after.info["notes"] == {"sky_found": 5}
    assert after.info["settings"]["part"] == "all" and after.info["settings"]["sky"]["segmenter"] == "blue"
    sample = LabelledSource([tmp_path / "out"]).load(0)
    assert sample["valid"][:30].all() and (sample["disparity"][:30] == 0).all() and sample["disparity"][40:].min() > 0


def test_sky__bad_keys_of_the_shards_stay_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = write(tmp_path / "in", [(blue_above(number), depth_below(40)) for number in (10, 20, 30)])
    second = ShardFolder(root)[1]
    lines = [json.dumps({"shard": ShardFolder(root).shards[0].name, "number": 1, "reason": "test_image"})]
    (Path(root) / "bad_keys.jsonl").write_text("\n".join(lines))
    mark(monkeypatch, root, tmp_path / "out")
    keys = [record.key for record in ShardFolder(tmp_path / "out")]
    assert keys == [record.key for record in ShardFolder(root) if record.key != second.key]


def test_sky__a_mask_that_the_set_came_with_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = cv2.imencode(".png", rows(0, 5).astype(np.uint8))[1].tobytes()
    root = write(tmp_path / "in", [(blue_above(30), depth_below(40))], sky_png=known)
    (found,) = mark(monkeypatch, root, tmp_path / "out")
    np.testing.assert_array_equal(found, rows(0, 5))
    assert ShardFolder(tmp_path / "out").info["notes"] == {"sky_known": 1}


def test_sky__shards_that_changed_are_not_continued(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark(monkeypatch, write(tmp_path / "in", [(blue_above(30), depth_below(40))]), tmp_path / "out")
    sky._folder.cache_clear()
    root = write(tmp_path / "in", [(blue_above(29), depth_below(40))])
    with pytest.raises(UserError, match="other files or other settings"):
        mark(monkeypatch, root, tmp_path / "out")


def test_sky__shards_without_labels_are_refused(image_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected labelled shards"):
        Sky(str(image_shards), str(tmp_path)).items()


def test_sky__a_share_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="from 0 to 1"):
        Sky(str(tmp_path), "x", confidence=50)


@pytest.mark.parametrize("workers", [0, 2])
def test_sky__with_a_real_segformer_workers_do_not_change_the_bytes(tmp_path: Path, workers: int) -> None:
    """Random weights say nearly the same of every pixel; half of them are to be sky, measured or not."""
    samples = [(scene(n, HEIGHT, WIDTH)[0], depth_below(40)) for n in range(6)]
    root, folder = write(tmp_path / "in", samples), save(tmp_path / "segformer")
    middle = float(np.median(SkySegmenter.from_pretrained(str(folder), device="cpu").probability(samples[0][0])))
    given = ["dataset=sky", f"root={root}", f"dataset.segmenter={folder}", "dataset.device=cpu", "out=unused"]
    cfg = compose("prepare", [*given, f"dataset.confidence={middle}", "dataset.max_labelled=1"])
    out, again = tmp_path / "out", tmp_path / "again"
    prepare(build(cfg.dataset), out, samples_per_shard=2, workers=workers)
    prepare(build(cfg.dataset), again, samples_per_shard=2, workers=0)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in again.iterdir()}
    assert str(tmp_path) not in (out / "dataset.json").read_text()
    findings = verify(out, workers=0)
    assert findings.problems == [] and findings.samples == 6
    assert ShardFolder(out).info["notes"]["sky_found"] > 0
    assert sum("sky.png" in record.members for record in ShardFolder(out)) == 6
