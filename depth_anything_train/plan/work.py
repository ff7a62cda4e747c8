"""What is to be done, by labelling or training: images, their size, and operations for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from depth_anything_train.building import build
from depth_anything_train.composition import compose, plain
from depth_anything_train.inference.preprocess import network_size
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.flops import count_flops
from depth_anything_train.overrides import as_override
from depth_anything_train.runtime import UserError

OF_LABELLING = ("images", "aspect", "labels")
"""Keys that say nothing about an experiment."""

SIZE, ASPECT = 518, 1.3333
"""Of images to label, unless other ones are asked for: the size of the released models, and photographs of 4 : 3."""

SQUARE = 1000  # the aspect of an image of so many pixels is right to a thousandth


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        name: in words.
        model: config of the model, as in `configs/train/model`.
        images: how many go through it.
        height, width: pixels of each.
        trains: forward and backward instead of forward alone.
        frozen_share: share of the images that a frozen encoder sees too (feature alignment).
        flops: operations for one image, averaged over all.
    """

    name: str
    model: DictConfig
    images: int
    height: int
    width: int
    trains: bool
    frozen_share: float
    flops: float


def read_work(cfg: DictConfig) -> Work:
    """What the keys `model` and `images`, or `experiment`, ask for; see `configs/plan/plan.yaml`.

    Raises:
        UserError: both or neither, one that is not known, or keys that do not belong to it.
    """
    if (cfg.model is None) == (cfg.experiment is None):
        raise UserError("Expected model= with images=, to label them, or experiment=, to train it: one of the two.")
    if cfg.experiment is not None:
        if given := [key for key in OF_LABELLING if cfg[key] is not None]:
            names = " and ".join(f"{key}=" for key in given)
            raise UserError(f"Expected experiment= without {names}, which say what model= labels; leave them out.")
        return _training(str(cfg.experiment), plain(cfg.size))
    if not isinstance(cfg.images, int | float) or not 1 <= cfg.images < float("inf"):
        raise UserError(f"Expected images= as a number of at least 1, but got {cfg.images}; for instance 62e6.")
    size, aspect = (SIZE if cfg.size is None else cfg.size), (ASPECT if cfg.aspect is None else cfg.aspect)
    if not 1 <= aspect <= 10:
        raise UserError(f"Expected aspect as longer side / shorter side, from 1 to 10, but got {aspect}.")
    model = compose("train", ["experiment=tiny_teacher", f"model={cfg.model}", "out=plan"]).model
    height, width = network_size(SQUARE, round(SQUARE * aspect), plain(size), patch=model.patch_size)
    flops = count_flops(_config_of(model), height, width)
    return Work(f"label with {cfg.model}", model, round(cfg.images), height, width, False, 0.0, flops.forward)


def _training(experiment: str, size: int | list[int] | None) -> Work:
    changes = [] if size is None else [as_override("size", size)]
    cfg = compose("train", [f"experiment={experiment}", "out=plan", *changes])
    batch = cfg.data.batch
    if {"semantic", "segmented"} & set(batch):
        raise UserError(f"Expected an experiment that trains a depth model, but {experiment} has another decoder.")
    in_batch = sum(batch.values())
    frozen_share = batch.get(cfg.task.feature_on, 0) / in_batch if cfg.task.get("frozen_encoder") else 0.0
    sides = [cfg.size, cfg.size] if isinstance(cfg.size, int) else plain(cfg.size)
    height, width = network_size(SQUARE, SQUARE, sides, patch=cfg.model.patch_size)
    flops = count_flops(_config_of(cfg.model), height, width)
    return Work(
        name=f"train {experiment}",
        model=cfg.model,
        images=cfg.steps * in_batch,
        height=height,
        width=width,
        trains=True,
        frozen_share=frozen_share,
        flops=flops.training + frozen_share * flops.encoder,
    )


def _config_of(model: DictConfig) -> DepthModelConfig:
    with torch.device("meta"):
        return build(model).config
