"""Fine-tuning to depth in metres (V1 section 6), on one kind of scene or on several with a head each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.runtime import UserError
from depth_anything_train.tasks.base import DepthTask
from depth_anything_train.types import Batch, DepthMetres, Disparity, LabelledBatch, Scalar, Valid


class MetricTask(DepthTask):
    """A loss of logarithms on labels in metres, nothing else.

    Args:
        model: a metric `DepthModel`.
        depth: loss of (prediction, depth, valid), in metres.
        options: see `Task`.
    """

    couples_images = True  # a variance over the pixels of all of them

    def __init__(self, model: DepthModel, *, depth: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        if model.config.kind != "metric":
            raise UserError(
                "Expected a metric model to fine-tune in metres, but got a relative one; set model.kind=metric."
            )
        self.depth = depth

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        labelled: LabelledBatch = batch["labelled"]
        prediction = self.model(self.to_model(labelled["image"]))
        return self.combine({"depth": self.depth(prediction, *metres(labelled["disparity"], labelled["valid"]))})


class RoutedMetricTask(MetricTask):
    """Several domains with their own bins: each learns from its own images, and the router learns to tell them apart.

    The stream of a batch says the domain of its images; the depth loss of each is taken alone, as the published code
    does with batches of one domain.
    """

    def __init__(self, model: DepthModel, **options: Any) -> None:
        super().__init__(model, **options)
        if model.config.bins is None or len(model.config.bins.domains) < 2:
            raise UserError("Expected a model with several model.bins.domains to route between, but got one head.")
        self.domains = model.config.bins.names

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step; returns the total loss."""
        streams: list[LabelledBatch] = [batch[name] for name in self.domains]
        counts = [len(stream["image"]) for stream in streams]
        domain = torch.cat([torch.full((count,), which, device=self.device) for which, count in enumerate(counts)])
        image = self.to_model(torch.cat([stream["image"] for stream in streams]))
        prediction, scores = self.model.route(image, domain)
        parts = zip(self.domains, prediction.split(counts), streams, strict=True)
        losses = {name: self.depth(part, *metres(s["disparity"], s["valid"])) for name, part, s in parts}
        return self.combine({**losses, "domain": cross_entropy(cast(Tensor, scores).float(), domain)})


def metres(disparity: Disparity, valid: Valid) -> tuple[DepthMetres, Valid]:
    """Depth from inverse depth in 1/m, and where it is defined."""
    known = valid & (disparity > 0)
    return 1.0 / disparity.where(known, 1.0), known
