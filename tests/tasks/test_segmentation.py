"""Segmentation from the official layout of a data set to a segmenter, with everything that training does."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segmented import classes_of, write_ade20k, write_segmented
from steps import fit, make_task
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from data_engine.ingest.ade20k import Ade20k
from data_engine.prepare import prepare
from depth_anything_train.composition import compose
from depth_anything_train.metrics.segmentation import best_constant_miou, confusion_of
from depth_anything_train.models.depth_model import build_depth_model
from depth_anything_train.models.segmenter import load_segmenter
from depth_anything_train.optim.schedule import linear_factor
from depth_anything_train.run_folder import read_metrics
from depth_anything_train.runtime import UserError
from depth_anything_train.train import train


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A miniature of ADE20K, both parts, through `prepare`."""
    folder = tmp_path_factory.mktemp("ade20k")
    root = write_ade20k(folder / "ADEChallengeData2016", train=16, val=4)
    for part in ("train", "val"):
        prepare(Ade20k(str(root), part=part), folder / part, workers=0)
    return folder


def config(shards, out, *changes):
    folders = [f"labelled=[{shards / 'train'}]", f"validation=[{shards / 'val'}]"]
    return compose("train", ["experiment=tiny_segmentation", f"out={out}", *folders, *changes])


def batch(count=2):
    pairs = [classes_of(number, 56, 56) for number in range(count)]
    image = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2)
    return {"image": image, "classes": torch.from_numpy(np.stack([classes for _, classes in pairs]))}


def test_step__the_total_is_the_weighted_sum_of_mask2former():
    task = make_task("tiny_segmentation")
    found = []
    step = task.training_step
    task.training_step = lambda *given: found.append(step(*given)) or found[-1]
    numbers = fit(task, {"segmented": batch()})
    weighted = 2 * numbers["train/loss/classes"] + 5 * numbers["train/loss/mask"] + 5 * numbers["train/loss/dice"]
    assert found[0].item() == numbers["train/loss"] == pytest.approx(weighted, rel=1e-5)


def test_step__points_depend_on_the_step_and_the_share_of_the_images_alone():
    """So that a run goes on alike on several devices, and one device with two parts trains as two devices do."""

    def drawn(task, step=3, rank=0, parts=1, batch_idx=0):
        trainer = SimpleNamespace(global_step=step, global_rank=rank, accumulate_grad_batches=parts)
        task.trainer = trainer
        with task._points_of(batch_idx):
            return torch.rand(()).item()

    task = make_task("tiny_segmentation")
    first = drawn(task)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert drawn(task) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn(task, rank=1) == drawn(task, parts=2, batch_idx=7) != first
    assert len({drawn(task, step, rank) for step in range(3) for rank in range(3)}) == 9
    task.seed = 1
    assert drawn(task) != first


def test_run__learns_to_segment_better_than_any_constant_map(tmp_path):
    """The best learning rate, no distortion and one scale, so that sixty steps are enough."""
    train_set = write_segmented(tmp_path / "train", count=16)
    held_out = write_segmented(tmp_path / "held_out", count=4, first=100)
    run = train(
        compose("train", ["experiment=tiny_segmentation", f"out={tmp_path / 'run'}", f"labelled=[{train_set}]",
                          f"validation=[{held_out}]", "task.num_classes=4", "steps=60", "validate.every_n_steps=30",
                          "checkpoint.every_n_steps=60", "data.colour=null", "data.geometry.scales=[1.0]"])
    )  # fmt: skip
    rows = read_metrics(run / "validation" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 30, 60] and {row["images"] for row in rows} == {4}
    truths = [classes_of(number)[1] for number in range(100, 104)]
    constant = best_constant_miou(sum(confusion_of(truth, truth * 0, 4) for truth in truths))
    assert rows[-1]["miou"] > constant + 0.2, (rows, constant)
    best = json.loads((run / "best" / "segmenter.json").read_text())["extra"]
    assert best["validation"]["miou"] == max(row["miou"] for row in rows)
    assert best["validation"]["window"]["stride"] == 28 and best["data"][0]["source"] == "boxes"
    model, about = load_segmenter(run)
    assert model.config.num_classes == 4 and about["steps"] == 60


def test_run__killed_and_continued_ends_with_the_same_bits(shards, tmp_path):
    settings = config(shards, tmp_path / "run", "steps=6", "checkpoint.every_n_steps=3", "validation=[]")
    run = train(settings)
    whole = (run / "model" / "segmenter.safetensors").read_bytes()
    for name in ("finished.json", "checkpoints/step-00000006.ckpt", "checkpoints/step-00000006.json"):
        (run / name).unlink()
    torch.manual_seed(99)
    train(settings)
    assert (run / "model" / "segmenter.safetensors").read_bytes() == whole


def test_run__starts_from_the_encoder_of_any_depth_model(shards, tmp_path):
    from depth_anything_train.models.checkpoints import save_model

    torch.manual_seed(5)
    other = build_depth_model(
        name="test", embed_dim=32, depth=4, num_heads=2, features=16, out_channels=[8, 8, 8, 8], image_size=28
    )
    save_model(tmp_path / "relative", other)
    run = train(
        config(shards, tmp_path / "run", f"init={tmp_path / 'relative'}", "initialise.parts=encoder", "steps=1",
               "optim.encoder_lr=0.0", "optim.weight_decay=0.0", "validation=[]")
    )  # fmt: skip
    model, about = load_segmenter(run)
    state = other.pretrained.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in model.pretrained.state_dict().items())
    assert about["init"]["source"].endswith("relative") and about["init"]["parts"] == "encoder"


def test_run__folders_that_do_not_fit_are_refused(shards, tmp_path):
    other = write_segmented(tmp_path / "boxes", count=4)
    with pytest.raises(UserError, match="of 150 classes"):
        train(config(shards, tmp_path / "a", f"labelled=[{other}]"))
    from scenes import write_shards

    depth = write_shards(tmp_path / "depth", "labelled", counts=(3,))
    with pytest.raises(UserError, match="Expected segmented shards"):
        train(config(shards, tmp_path / "b", f"validation=[{depth}]"))
    with pytest.raises(UserError, match="is trained on"):
        train(config(shards, tmp_path / "c", f"validation=[{shards / 'train'}]"))


def test_weights__are_shared_out_for_depth_models_alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        task = make_task("tiny_segmentation")
        task.configure_model()
        task._device_mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))  # as Lightning's strategy
        with pytest.raises(UserError, match="use trainer=default"):
            task.configure_model()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name, steps, classes, stride", [("ade20k", 160_000, 150, 426), ("cityscapes", 80_000, 19, 518)]
)
def test_recipe__has_the_published_numbers(name, steps, classes, stride):
    cfg = compose("train", [f"experiment=segmentation_{name}", "out=x"])
    assert (cfg.steps, cfg.size, cfg.data.batch.segmented) == (steps, 896, 16)
    assert (cfg.task.num_classes, cfg.validate.window.stride, cfg.validate.window.crop) == (classes, stride, 896)
    assert (cfg.optim.encoder_lr * 10, cfg.optim.decoder_lr) == (pytest.approx(3e-5), 3e-5)
    assert (cfg.optim.weight_decay, cfg.optim.warmup_steps, cfg.guard.clip_norm) == (0.05, 1500, 0.01)
    assert cfg.task.weights == {"classes": 2, "mask": 5, "dice": 5} == cfg.task.masks.match
    assert (cfg.model.taps, cfg.task.decoder.queries, cfg.task.decoder.width) == ("last4", 200, 1024)


def test_schedule__is_a_rise_and_then_poly_of_power_1():
    """The published one, iteration by iteration, but for the first step of the rise."""
    for step in (1500, 1501, 40_000, 159_999):
        expected = (1 - (step - 1500) / (160_000 - 1500)) ** 1.0
        assert linear_factor(step, steps=160_000, warmup_steps=1500) == pytest.approx(expected)
    for step in (0, 10, 750, 1499):
        expected = 1e-6 + (1 - 1e-6) * step / 1500
        assert linear_factor(step, steps=160_000, warmup_steps=1500) == pytest.approx(expected, abs=1e-3)
