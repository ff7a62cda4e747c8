from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import disparity_label, labelled_members, picture, png, write_folder
from stores import Web, web_server

from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.order import BlockShuffle, Mixture
from depth_anything_train.data.sources import LabelledSource, PseudoLabelSource

SHARDS, EACH, GROUP = 8, 3, 2


@pytest.fixture
def web(cache: Path, tmp_path: Path) -> Iterator[Web]:
    """A web server with labelled shards, and pseudo labels of others."""
    numbers = [range(start, start + EACH) for start in range(0, SHARDS * EACH, EACH)]
    labelled = [[(f"p{n}", labelled_members(n)) for n in shard] for shard in numbers]
    images = [[(f"p{n}", {"png": png(picture(n))}) for n in shard] for shard in numbers]
    labels = [[(f"p{n}", {"disparity.dz16": disparity_label(n)}) for n in shard] for shard in numbers]
    write_folder(tmp_path / "labelled", {"kind": "labelled"}, labelled)
    write_folder(tmp_path / "images", {"kind": "images"}, images)
    write_folder(tmp_path / "labels", {"kind": "pseudo_labels", "images": "../images"}, labels)
    with web_server(tmp_path) as server:
        yield server


KINDS = {"labelled": (LabelledSource, "labelled"), "unlabelled": (PseudoLabelSource, "labels")}


def module(web: Web, *, where: str = "", streams: Collection[str] = tuple(KINDS), **options) -> ShardDataModule:
    sources = {name: KINDS[name][0]([f"{where or web.address}/{KINDS[name][1]}"]) for name in streams}
    options = {"steps": SHARDS, "seed": 5, "shuffle_shards": GROUP} | options
    return ShardDataModule(sources=sources, batch=dict.fromkeys(sources, EACH), size=14, **options)


def fetched(web: Web) -> set[str]:
    return {name for name in web.gets if name.endswith(".tar")}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__the_next_group_comes_while_the_training_is_at_this_one(web, workers):
    data = module(web, streams=["labelled"], workers=workers)
    stream = data.streams["labelled"]
    batches = iter(data.loader())
    met: set[str] = set()
    for step in range(SHARDS - GROUP):
        next(batches)
        assert isinstance(stream.order, BlockShuffle)
        now, then = stream.order.groups_at(step * stream.slots, data.seed, "labelled")
        assert len(now) == len(then) == GROUP
        met |= {f"{shard:05d}.tar" for shard in (*now, *then)}
        wait_for(lambda met=met: fetched(web) >= met)
        assert workers or fetched(web) == met  # workers are some batches ahead


def test_loader__every_shard_comes_and_hardly_ever_twice(web):
    assert len(list(module(web, workers=2).loader())) == SHARDS
    assert len(fetched(web)) == SHARDS
    # Labelled, labels and images of one name. Two may begin to fetch one shard in the same instant.
    assert 3 * SHARDS <= sum(web.gets[name] for name in fetched(web)) < 4 * SHARDS


def test_loader__fetching_ahead_changes_no_batch(web, tmp_path):
    for one, other in zip(module(web).loader(), module(web, where=str(tmp_path)).loader(), strict=True):
        assert one["labelled"]["key"] == other["labelled"]["key"]
        assert torch.equal(one["unlabelled"]["image"], other["unlabelled"]["image"])


def test_loader__a_shard_that_is_gone_is_told_by_whoever_reads_it(web, tmp_path):
    data = module(web, streams=["labelled"])
    for tar in (tmp_path / "labelled").glob("*.tar"):
        tar.unlink()
    with pytest.raises(Exception, match="labelled/0000.*is missing"):
        next(iter(data.loader()))


def test_loader__nobody_fetches_after_its_end(web):
    before = threading.active_count()
    loader = module(web).loader()
    batches = iter(loader)
    next(batches)
    assert threading.active_count() > before
    loader.close()
    wait_for(lambda: threading.active_count() <= before)


def test_loader__shards_of_this_machine_are_not_fetched(web, tmp_path):
    assert module(web, where=str(tmp_path)).loader().prefetcher is None


@pytest.mark.parametrize("counts", [[3] * 8, [5, 1, 0, 7, 2, 9, 4]])
def test_groups_at__hold_what_the_order_takes_next(counts):
    order = BlockShuffle(counts, GROUP)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    positions = np.arange(3 * len(order))
    _, indices = order(positions, 5, "x")
    shards = np.searchsorted(bounds, indices, side="right") - 1
    seen: list[int] = []
    following: list[int] = []
    for position, shard in zip(positions.tolist(), shards.tolist(), strict=True):
        now, then = order.groups_at(position, 5, "x")
        assert shard in now
        if seen and now != seen:
            assert now == following
        seen, following = now, then


def test_groups_at__of_a_mixture_are_those_of_its_sources():
    parts = [[3] * 6, [4, 2, 5, 6]]
    order = Mixture([BlockShuffle(counts, GROUP) for counts in parts], [2, 1], name="x")
    counts = [count for part in parts for count in part]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    positions = np.arange(200)
    _, indices = order(positions, 5, "x")
    shards = np.searchsorted(bounds, indices, side="right") - 1
    for position, shard in zip(positions.tolist(), shards.tolist(), strict=True):
        now, then = order.groups_at(position, 5, "x")
        assert shard in {*now, *then}  # within one round a source may pass on to its next group
        assert any(one < 6 for one in now) and any(one >= 6 for one in now)
