"""What is to be done, by labelling or training: images, their size, and operations for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.inference.preprocess import network_size
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.flops import count_flops
from depth_anything_train.runtime import UserError

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
        UserError: both or neither, or one that is not known.
    """
    if (cfg.model is None) == (cfg.experiment is None):
        raise UserError("Expected model= with images=, to label them, or experiment=, to train it: one of the two.")
    if cfg.experiment is not None:
        return _training(str(cfg.experiment))
    if not isinstance(cfg.images, int | float) or not 1 <= cfg.images < float("inf"):
        raise UserError(f"Expected images= as a number of at least 1, but got {cfg.images}; for instance 62e6.")
    if not 1 <= cfg.aspect <= 10:
        raise UserError(f"Expected aspect as longer side / shorter side, from 1 to 10, but got {cfg.aspect}.")
    model = compose("train", ["experiment=tiny_teacher", f"model={cfg.model}", "out=plan"]).model
    height, width = network_size(SQUARE, round(SQUARE * cfg.aspect), cfg.size, patch=model.patch_size)
    flops = count_flops(_config_of(model), height, width)
    return Work(f"label with {cfg.model}", model, round(cfg.images), height, width, False, 0.0, flops.forward)


def _training(experiment: str) -> Work:
    cfg = compose("train", [f"experiment={experiment}", "out=plan"])
    batch = cfg.data.batch
    if {"semantic", "segmented"} & set(batch):
        raise UserError(f"Expected an experiment that trains a depth model, but {experiment} has another decoder.")
    in_batch = sum(batch.values())
    frozen_share = batch.get("unlabelled", 0) / in_batch if cfg.task.get("frozen_encoder") else 0.0
    height, width = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
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
