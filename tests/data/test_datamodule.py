import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pictures import labelled_members, write_folder
from torch import distributed

from depth_anything_train.data import datamodule
from depth_anything_train.data.colour import StrongPerturbation
from depth_anything_train.data.cutmix import CutMix
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.exclusions import BadKey, write_bad_keys
from depth_anything_train.data.sources import LabelledSource, PseudoLabelSource, SemanticSource
from depth_anything_train.runtime import UserError, console

SIZE, STEPS = 28, 8


def student(labelled_folders, pseudo_folder, **options):
    sources = {"labelled": LabelledSource(labelled_folders), "unlabelled": PseudoLabelSource([pseudo_folder])}
    options = {"perturbation": StrongPerturbation(), "cutmix": CutMix(), "steps": STEPS, "seed": 3} | options
    return ShardDataModule(sources=sources, batch={"labelled": 4, "unlabelled": 8}, size=SIZE, **options)


def teacher(labelled_folders, **options):
    options = {"steps": STEPS, "seed": 3, "batch": {"labelled": 4}} | options
    return ShardDataModule(sources={"labelled": LabelledSource(labelled_folders)}, size=SIZE, **options)


def labelled(loader):
    return [batch["labelled"] for batch in loader]


def keys_of(data):
    return [batch["key"] for batch in labelled(data.loader())]


def assert_equal(one, other):
    """Two batches agree in every bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[name])
        elif isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype and torch.equal(value, other[name])
        else:
            assert value == other[name]


def test_teacher_batch__has_the_stated_types(labelled_folders):
    batches = labelled(teacher(labelled_folders).loader())
    assert len(batches) == STEPS
    for batch in batches:
        assert batch.keys() == {"image", "disparity", "valid", "key", "source"}
        assert batch["image"].shape == (4, 3, SIZE, SIZE) and batch["image"].dtype == torch.uint8
        assert batch["disparity"].shape == (4, 1, SIZE, SIZE) and batch["disparity"].dtype == torch.float32
        assert batch["valid"].shape == (4, 1, SIZE, SIZE) and batch["valid"].dtype == torch.bool
        assert len(batch["key"]) == len(batch["source"]) == 4


def test_teacher_batch__images_are_rgb_and_named_by_their_key(labelled_folders):
    for batch in labelled(teacher(labelled_folders).loader()):
        numbers = batch["image"][:, 2].float().mean((1, 2)).round().int().tolist()
        assert [f"p{number}" for number in numbers] == batch["key"]


def test_student_batch__has_the_stated_types(labelled_folders, pseudo_folder):
    for batch in student(labelled_folders, pseudo_folder).loader():
        assert batch.keys() == {"labelled", "unlabelled"}
        assert batch["labelled"]["image"].shape == (4, 3, SIZE, SIZE)
        unlabelled = batch["unlabelled"]
        assert unlabelled.keys() == {"image", "disparity", "valid", "region", "key", "source"}
        assert unlabelled["image"].shape == (8, 3, SIZE, SIZE) and unlabelled["image"].dtype == torch.uint8
        assert unlabelled["region"].shape == (8, 1, SIZE, SIZE) and unlabelled["region"].dtype == torch.bool


def test_student_batch__only_unlabelled_images_are_perturbed(labelled_folders, pseudo_folder):
    plain = list(student(labelled_folders, pseudo_folder, perturbation=None, cutmix=None).loader())
    strong = list(student(labelled_folders, pseudo_folder, cutmix=None).loader())
    for before, after in zip(plain, strong, strict=True):
        assert_equal(before["labelled"], after["labelled"])
        assert not torch.equal(before["unlabelled"]["image"], after["unlabelled"]["image"])
        for name in ("disparity", "valid", "key", "region"):
            assert_equal({name: before["unlabelled"][name]}, {name: after["unlabelled"][name]})
        assert before["unlabelled"]["region"].all()


def test_student_batch__cutmix_pastes_the_partner_with_its_label(labelled_folders, pseudo_folder):
    whole = list(student(labelled_folders, pseudo_folder, cutmix=None).loader())
    mixed = list(student(labelled_folders, pseudo_folder).loader())
    partner = [1, 0, 3, 2, 5, 4, 7, 6]
    for before, after in zip((b["unlabelled"] for b in whole), (b["unlabelled"] for b in mixed), strict=True):
        for name in ("image", "disparity", "valid"):
            expected = torch.where(after["region"], before[name], before[name][partner])
            assert torch.equal(after[name], expected)
    assert any(not batch["unlabelled"]["region"].all() for batch in mixed)


def test_semantic_batch__has_the_stated_types(labelled_folders):
    source = SemanticSource(labelled_folders)
    data = ShardDataModule(sources={"semantic": source}, batch={"semantic": 6}, size=SIZE, steps=2, seed=0)
    for batch in (streams["semantic"] for streams in data.loader()):
        assert batch["image"].shape == (6, 3, SIZE, SIZE)
        assert batch["classes"].shape == (6, SIZE, SIZE) and batch["classes"].dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_loader__workers_change_nothing(labelled_folders, pseudo_folder, workers):
    alone = student(labelled_folders, pseudo_folder).loader()
    together = student(labelled_folders, pseudo_folder, workers=workers).loader()
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("bytes_a_pixel", [9, 4, 0, 2**40])
def test_loader__batches_that_are_kept_stay_as_they_were(monkeypatch, labelled_folders, pseudo_folder, bytes_a_pixel):
    """While workers write to the memory that they came through, where it has no room, and where the system has none."""
    monkeypatch.setattr(datamodule, "BYTES_A_PIXEL", bytes_a_pixel)
    alone = list(student(labelled_folders, pseudo_folder).loader())
    together = list(student(labelled_folders, pseudo_folder, workers=1).loader())
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)


def test_loader__batches_keep_their_layout_and_need_no_files_of_shared_memory(labelled_folders, pseudo_folder):
    batches = iter(student(labelled_folders, pseudo_folder, workers=1).loader())
    batch = next(batches)["unlabelled"]
    assert batch["image"].is_contiguous(memory_format=torch.channels_last) and not batch["image"].is_shared()
    assert "/dev/shm/torch" not in Path("/proc/self/maps").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loader__batches_for_a_gpu_lie_in_pinned_memory(labelled_folders, pseudo_folder):
    alone = student(labelled_folders, pseudo_folder).loader()
    together = list(student(labelled_folders, pseudo_folder, workers=1).loader())
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)
        assert other["unlabelled"]["image"].is_pinned() and other["labelled"]["disparity"].is_pinned()


@pytest.mark.parametrize(("cache_mb", "workers"), [(1, 0), (0.05, 0), (0.05, 2)])
def test_loader__kept_samples_change_nothing(labelled_folders, pseudo_folder, cache_mb, workers):
    """A budget for all samples and for some of them, over several epochs of both streams."""
    plain = student(labelled_folders, pseudo_folder, steps=20)
    kept = student(labelled_folders, pseudo_folder, steps=20, cache_mb=cache_mb, workers=workers)
    for one, other in zip(plain.loader(), kept.loader(), strict=True):
        assert_equal(one, other)
    if not workers:
        assert 0 < kept.views.cache.free_bytes < cache_mb * 2**20


def test_loader__workers_are_gone_when_the_run_ends(labelled_folders):
    assert len(list(teacher(labelled_folders, workers=2).loader())) == STEPS
    assert not multiprocessing.active_children()


def test_loader__workers_are_gone_when_nobody_wants_their_batches(labelled_folders):
    loader = teacher(labelled_folders, workers=2).loader()
    next(iter(loader))
    assert not multiprocessing.active_children()
    kept = iter(loader)
    next(kept)
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    assert not multiprocessing.active_children()


def test_loader__a_script_leaves_in_the_middle_of_its_batches(labelled_folders):
    code = f"""
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.sources import LabelledSource

sources = {{"labelled": LabelledSource({[*map(str, labelled_folders)]})}}
batches = iter(ShardDataModule(sources=sources, batch={{"labelled": 2}}, size=14, steps=9, seed=0, workers=2).loader())
next(batches)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__ranks_join_to_the_global_batch(labelled_folders, pseudo_folder, workers):
    data = student(labelled_folders, pseudo_folder, workers=workers)
    shares = zip(*(data.loader(rank=rank, world_size=2) for rank in range(2)), strict=True)
    for whole, (first, second) in zip(data.loader(), shares, strict=True):
        for stream in whole:
            for name, value in whole[stream].items():
                parts = first[stream][name], second[stream][name]
                joined = torch.cat(parts) if isinstance(value, torch.Tensor) else parts[0] + parts[1]
                assert_equal({name: value}, {name: joined})


@pytest.mark.parametrize("start", [1, 5, STEPS])
def test_loader__started_in_the_middle_goes_on_as_if_never_stopped(labelled_folders, pseudo_folder, start):
    data = student(labelled_folders, pseudo_folder)
    for whole, part in zip(list(data.loader())[start:], data.loader(start=start), strict=True):
        assert_equal(whole, part)


def test_loader__another_seed_gives_other_batches(labelled_folders):
    one, other = (teacher(labelled_folders, seed=seed).batch(0)["labelled"] for seed in (0, 1))
    assert one["key"] != other["key"]


def test_loader__a_sample_looks_different_in_every_epoch(labelled_folders):
    views = {}
    for batch in labelled(teacher(labelled_folders, steps=26).loader()):
        for key, image in zip(batch["key"], batch["image"], strict=True):
            views.setdefault(key, set()).add(image.numpy().tobytes())
    assert Counter(map(len, views.values())).total() == 13
    assert np.mean([len(looks) for looks in views.values()]) > 4  # of 8 epochs


def test_loader__leaves_the_random_numbers_of_the_training_alone(labelled_folders):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(teacher(labelled_folders, workers=1).loader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def damaged_folder(tmp_path):
    """Every fifth of 40 samples is cut off."""
    samples = []
    for number in range(40):
        members = labelled_members(number)
        if number % 5 == 0:
            members["png"] = members["png"][:80]
        samples.append((f"p{number}", members))
    return write_folder(tmp_path / "damaged", {"kind": "labelled"}, [samples])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__a_bad_sample_becomes_a_black_image_without_label(damaged_folder, workers, capsys):
    loader = teacher([damaged_folder], workers=workers, steps=10, max_bad_share=0.3).loader()
    batches = labelled(loader)
    keys = [key for batch in batches for key in batch["key"]]
    assert sorted(key for key in keys if key.startswith("bad")) == sorted(f"bad labelled {n}" for n in range(0, 40, 5))
    for batch in batches:
        for key, image, valid in zip(batch["key"], batch["image"], batch["valid"], strict=True):
            assert key.startswith("bad") == (not valid.any()) == (not image.any())
    assert loader.bad.reasons == {"truncated_image": 8}
    assert loader.bad.seen == 40
    assert capsys.readouterr().err.count("Bad sample number") == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_loader__stops_at_the_same_step_when_too_many_are_bad(damaged_folder, workers):
    keys = []
    with pytest.raises(UserError, match=r"^\d+ of \d+ samples cannot be used .*truncated_image.*$") as error:
        for batch in teacher([damaged_folder], workers=workers, steps=100).loader():
            keys += batch["labelled"]["key"]
    every = sum(keys_of(teacher([damaged_folder], steps=100, max_bad_share=1.0)), [])
    twentieth = [place for place, key in enumerate(every) if key.startswith("bad")][19]
    assert len(keys) == twentieth // 4 * 4
    assert str(error.value).startswith(
        f"{sum(k.startswith('bad') for k in every[: len(keys) + 4])} of {len(keys) + 4} "
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_loader__a_shard_that_goes_away_is_one_sentence(labelled_folders, workers):
    data = teacher(labelled_folders, workers=workers)
    for tar in labelled_folders[0].glob("*.tar"):
        tar.unlink()
    with pytest.raises(UserError, match=r"^Expected the shard .*is missing\.$") as error:
        list(data.loader())
    assert error.traceback and not multiprocessing.active_children()  # a traceback keeps no worker alive


def test_datamodule__refuses_a_batch_that_does_not_name_its_sources(labelled_folders):
    with pytest.raises(UserError, match=r"data\.batch .*labelled.*unlabelled"):
        teacher(labelled_folders, batch={"unlabelled": 4})


def test_datamodule__refuses_ranks_that_would_split_a_pair(labelled_folders, pseudo_folder):
    sources = {"unlabelled": PseudoLabelSource([pseudo_folder])}
    data = ShardDataModule(sources=sources, batch={"unlabelled": 6}, size=SIZE, steps=1, seed=0, cutmix=CutMix())
    assert next(iter(data.loader()))["unlabelled"]["image"].shape[0] == 6
    with pytest.raises(UserError, match="use a multiple of 4 for data.batch.unlabelled"):
        data.loader(world_size=2)


# -- Other orders and other places. -----------------------------------------------------------------------------------

MIXED = {"weights": {"labelled": [1, 3], "unlabelled": None}, "shuffle_shards": 1, "steps": 12}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_loader__workers_and_ranks_change_nothing_in_a_mixture(labelled_folders, pseudo_folder, workers):
    alone = student(labelled_folders, pseudo_folder, **MIXED).loader()
    data = student(labelled_folders, pseudo_folder, workers=workers, **MIXED)
    for whole, *parts in zip(alone, data.loader(), *(data.loader(rank=r, world_size=2) for r in range(2)), strict=True):
        assert_equal(whole, parts[0])
        for stream in whole:
            assert whole[stream]["key"] == parts[1][stream]["key"] + parts[2][stream]["key"]
            joined = torch.cat([part[stream]["image"] for part in parts[1:]])
            assert torch.equal(whole[stream]["image"], joined)


def test_loader__a_mixture_has_its_shares_and_can_be_entered_anywhere(labelled_folders, pseudo_folder):
    """One image of the first folder (p0 to p8) beside three of the second, in every batch of four."""
    data = student(labelled_folders, pseudo_folder, **MIXED)
    batches = list(data.loader())
    for batch in batches:
        numbers = [int(key.removeprefix("p")) for key in batch["labelled"]["key"]]
        assert sum(number < 9 for number in numbers) == 1
    for start in (1, 7):
        for whole, part in zip(batches[start:], data.loader(start=start), strict=True):
            assert_equal(whole, part)


def test_datamodule__refuses_weights_that_do_not_fit(labelled_folders):
    with pytest.raises(UserError, match=r"data\.weights\.labelled .* each of 2 folders"):
        teacher(labelled_folders, weights={"labelled": [1]})
    with pytest.raises(UserError, match=r"data\.weights .*labelled.* names \['labeled'\]"):
        teacher(labelled_folders, weights={"labeled": [1, 3]})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("local_labels", [False, True])
def test_loader__from_s3_is_the_same_as_from_disk(
    cache, s3, labelled_folders, pseudo_folder, tmp_path, workers, local_labels
):
    """Labels in the store name their images beside them; labels on disk name the address of their images."""
    options = {"shuffle_shards": 2, "steps": 4}
    local = list(student(labelled_folders, pseudo_folder, **options).loader())
    name = f"{workers}-{local_labels}"
    remote_folders = [s3.upload(folder, f"{name}/{folder.name}") for folder in labelled_folders]
    images = s3.upload(tmp_path / "images", f"{name}/images")
    if local_labels:
        info = pseudo_folder / "dataset.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"images": images}))
        labels = pseudo_folder
    else:
        labels = s3.upload(pseudo_folder, f"{name}/labels")
    fetched = student(remote_folders, labels, workers=workers, **options).loader()
    for one, other in zip(local, fetched, strict=True):
        assert_equal(one, other)


def test_datamodule__says_when_shards_would_be_fetched_over_and_over(cache, s3, labelled_folders, monkeypatch, capsys):
    monkeypatch.setenv("DEPTH_ANYTHING_CACHE_GB", "1e-6")
    folders = [s3.upload(folder, f"large/{folder.name}") for folder in labelled_folders]
    teacher(folders).setup("fit")
    said = capsys.readouterr().err
    assert all(f"{folder} is larger than the cache" in said for folder in folders)
    teacher(folders, shuffle_shards=10).setup("fit")
    assert "larger" not in capsys.readouterr().err


def close_as(rank, data, store, said):
    """Rank `rank` of two at the end of a run in which it saw `rank + 1` bad samples of four; notes what it said."""
    distributed.init_process_group("gloo", store=distributed.FileStore(str(store), 2), rank=rank, world_size=2)
    data.bad.count(4, [("bad_json", "x")] * (rank + 1))
    data.bad.note_used()
    with console.capture() as captured:
        data.close()
    said.put(captured.get())
    distributed.barrier()  # or the first to leave would take the other's connection away
    distributed.destroy_process_group()


def test_close__what_all_processes_could_not_use_is_said_once(labelled_folders, tmp_path):
    context = multiprocessing.get_context("fork")
    data, said = teacher(labelled_folders), context.Queue()
    ranks = [context.Process(target=close_as, args=(rank, data, tmp_path / "store", said)) for rank in range(2)]
    for process in ranks:
        process.start()
    assert sorted(said.get(timeout=60) for _ in ranks) == ["", "3 of 8 samples could not be used: 3 x bad_json.\n"]
    for process in ranks:
        process.join(60)


# -- A real trainer: what Lightning makes of it. ----------------------------------------------------------------------


class Recorder(pl.LightningModule):
    """Remembers the keys it was trained on; its one weight depends on every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.keys, self.steps = [], []

    def training_step(self, batch, batch_idx):
        self.keys.append(batch["labelled"]["key"])
        self.steps.append((self.trainer.global_step, batch_idx))
        return (self.weight - batch["labelled"]["image"].float().mean() / 255).square()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Stop(Exception):
    pass


class SaveEvery(pl.Callback):
    """Saves after every step, as a run does, and dies after `last`."""

    def __init__(self, folder, last):
        self.folder, self.last = folder, last

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        if trainer.global_step == self.last:
            raise Stop


def fit(folder, data, *, steps, last=None, resume=None, accumulate=1):
    module = Recorder()
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[SaveEvery(folder, last)],
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume and folder / f"{resume}.ckpt", weights_only=True)
    except Stop:
        pass
    return module, trainer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [[(2, 2)], [(1, 1), (3, 3)], [(3, 2), (3, 2)], [(4, 4)]], ids=str)
def test_trainer__continued_run_sees_what_an_undisturbed_one_sees(labelled_folders, tmp_path, workers, stops):
    """A stop is the step after which the run dies, and the step that was saved last."""

    def data():
        return teacher(labelled_folders, steps=4, workers=workers)

    (tmp_path / "whole").mkdir()
    whole, _ = fit(tmp_path / "whole", data(), steps=4)
    assert whole.keys == keys_of(data())

    saved = 0
    for last, save in [*stops, (None, None)]:
        part, trainer = fit(tmp_path, data(), steps=4, last=last, resume=saved or None)
        assert part.keys == whole.keys[saved:last]
        assert part.steps == [(step, step) for step in range(saved, last or 4)]
        saved = save
    assert trainer.global_step == 4
    assert torch.equal(part.weight, whole.weight)


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (1, 2)])
def test_trainer__a_continued_run_counts_bad_samples_as_an_undisturbed_one(
    damaged_folder, tmp_path, capsys, workers, accumulate
):
    def run(**stops):
        data = teacher([damaged_folder], steps=10, workers=workers, max_bad_share=0.3)
        fit(tmp_path, data, steps=10, accumulate=accumulate, **stops)
        return data

    run(last=4)
    run(resume=4, last=7)
    continued = run(resume=7)
    assert continued.state_dict() == {"seen": 40, "reasons": {"truncated_image": 8}}
    continued.close()
    assert "8 of 40 samples could not be used: 8 x truncated_image." in capsys.readouterr().err


def test_trainer__finished_run_can_be_made_longer(labelled_folders, tmp_path):
    first, _ = fit(tmp_path, teacher(labelled_folders, steps=3), steps=3)
    second, trainer = fit(tmp_path, teacher(labelled_folders, steps=5), steps=5, resume=3)
    assert first.keys + second.keys == keys_of(teacher(labelled_folders, steps=5))
    assert trainer.global_step == 5


def test_trainer__a_batch_in_parts_is_the_whole_batch_and_not_repeated_after_a_stop(labelled_folders, tmp_path):
    first, _ = fit(tmp_path, teacher(labelled_folders, steps=4), steps=4, last=2, accumulate=2)
    second, trainer = fit(tmp_path, teacher(labelled_folders, steps=4), steps=4, resume=2, accumulate=2)
    keys = first.keys + second.keys
    pairs = zip(keys[::2], keys[1::2], strict=True)
    assert [a + b for a, b in pairs] == keys_of(teacher(labelled_folders, steps=4))
    assert trainer.global_step == 4


@pytest.mark.parametrize(
    ("world_size", "most", "parts"), [(1, None, 1), (1, 12, 1), (1, 11, 2), (2, 6, 1), (1, 3, 4), (2, 3, 2), (4, 3, 1)]
)
def test_parts__are_as_few_as_fit_a_device(labelled_folders, pseudo_folder, world_size, most, parts):
    data = student(labelled_folders, pseudo_folder, max_per_device=most)
    assert data.parts(world_size) == parts


def test_parts__refuses_what_cannot_be_divided(labelled_folders, pseudo_folder):
    data = student(labelled_folders, pseudo_folder, max_per_device=2)
    with pytest.raises(UserError, match="at most max_per_device=2 images at a time"):
        data.parts(1)


@pytest.mark.parametrize("steps", [-1, 9])
def test_trainer__must_not_run_longer_than_the_data(labelled_folders, tmp_path, steps):
    with pytest.raises(UserError, match=r"trainer\.max_steps in 0 to data\.steps=8"):
        fit(tmp_path, teacher(labelled_folders), steps=steps)


def test_trainer__may_stop_earlier(labelled_folders, tmp_path):
    module, _ = fit(tmp_path, teacher(labelled_folders, workers=1), steps=3)
    assert len(module.keys) == 3
    assert not multiprocessing.active_children()


def test_trainer__says_what_is_left_out(labelled_folders, tmp_path, capsys):
    write_bad_keys(Path(labelled_folders[0]), [BadKey("00001.tar", n, "", "constant_label") for n in (0, 2)])
    module, _ = fit(tmp_path, teacher(labelled_folders, steps=2), steps=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 9 samples of" in said and "are left out: 2 x constant_label." in said
    assert not {"p5", "p7"} & set(sum(module.keys, []))
