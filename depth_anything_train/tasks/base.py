"""What the training stages share: the optimiser, how images reach the model, how named losses become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from depth_anything_train.data.schema import LABELLED
from depth_anything_train.devices import share_out
from depth_anything_train.models.checkpoints import assemble, describe, save_model
from depth_anything_train.models.depth_model import DepthModel
from depth_anything_train.models.flops import count_flops
from depth_anything_train.ops.normalisation import normalize
from depth_anything_train.runtime import UserError, console
from depth_anything_train.tasks.steps import ends_step, has_row
from depth_anything_train.types import Batch, Disparity, Image, ImageBytes, Scalar

EDGES = "_gradient"
"""Behind the name of maps, that of their loss on edges."""


class OptimizerRecipe(Protocol):
    """What `configs/train/optim` builds."""

    def build(self, model: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimiser and schedule, which advances every step."""


class Task(LightningModule, ABC):
    """A model, its named losses and its optimiser.

    Args:
        model: the network that is trained.
        optim: makes optimiser and schedule from the model and the number of steps.
        steps: steps of the whole run.
        weights: weight of each named loss; the total is the weighted sum.
        channels_last: store images and weights channels last, which is faster for convolutions on CPUs and GPUs.
    """

    validated_on: ClassVar[str | None] = None
    """Kind of the shards on which the model can be judged while it learns; `snapshot` gives that model."""

    couples_images: ClassVar[bool] = False
    """Whether the loss is over several images together, so that it depends on which ones a device takes at a time."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: OptimizerRecipe,
        steps: int,
        weights: Mapping[str, float],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.optim, self.steps = optim, steps
        self.record: dict[str, Any] = {}  # what the model's file will say about its training
        self.weights = dict(weights)
        self._parts: list[dict[str, Tensor]] = []  # numbers of this step so far, where a device takes it in parts

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser, one schedule, advanced by step."""
        optimizer, schedule = self.optim.build(self.model, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_model(self) -> None:
        """Refuse to shard the weights over the devices (`trainer=fsdp`), unless a subclass defines how.

        Raises:
            UserError: `trainer=fsdp` was chosen.
        """
        if self.device_mesh is not None:
            raise UserError(
                "Expected a depth model where trainer=fsdp shares out the weights, but this experiment trains another; "
                "use trainer=default, which copies them to every device."
            )

    def to_model(self, image: ImageBytes) -> Image:
        """Normalise on the device; bytes travel from the loader, four times smaller than floats."""
        return normalize(image).contiguous(memory_format=self.memory_format)

    def count_flops(self, batch: Batch) -> int | None:
        """Floating-point operations of a step on this batch, forward and backward; None where nobody counted."""
        return None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint say how far the batches were divided, and in which precision they were computed."""
        checkpoint["parts"], checkpoint["precision"] = self._parts_of_a_batch(), self.trainer.precision

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to continue with batches divided differently, if that changes the loss; tell of another precision.

        Raises:
            UserError: they are, and the loss is over several images together.
        """
        precision = self.trainer.precision
        old = checkpoint.get("precision", precision)  # older checkpoints do not say
        if old != precision and self.trainer.is_global_zero:
            auto = "which is what precision=auto means on this machine"
            console.print(f"This run was computed in {old} so far and goes on in {precision}, {auto}.", soft_wrap=True)
        before, now = checkpoint["parts"], self._parts_of_a_batch()
        if self.couples_images and before != now:
            raise UserError(
                f"This run divided each batch into {before}, one for each device or part of max_per_device=, and would "
                f"go on with {now}. Its loss is over all images of such a part together, so that it would be another "
                f"one: use devices and max_per_device= that give {before} again, or begin anew in another out=."
            )

    def _parts_of_a_batch(self) -> int:
        return self.trainer.world_size * self.trainer.accumulate_grad_batches

    def gather(self) -> None:
        """Have the whole model on every rank, each of which must call this."""

    def snapshot(self) -> Any:
        """A copy of what is judged, whole on every rank, each of which must call this; in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} has validated_on but no snapshot(), the model to validate.")

    def export(self, folder: Path) -> None:
        """Write the outcome of training."""
        self.save(folder, self.model, self.record)

    @abstractmethod
    def save(self, folder: Path, model: Any, record: Mapping[str, Any]) -> None:
        """Write a model of this task and all that is needed to build it again."""

    def combine(self, losses: Mapping[str, Scalar]) -> Scalar:
        """The weighted sum of the named losses; logs each of them, the total and the learning rates.

        Steps without a row log nothing: on several devices every logged number is a collective call.

        Raises:
            UserError: a loss has no weight.
        """
        if unweighted := losses.keys() - self.weights.keys():
            raise UserError(f"task.weights has no weight for {sorted(unweighted)}; it names {sorted(self.weights)}.")
        weighted = (self.weights[name] * loss for name, loss in losses.items())
        total = sum(weighted, start=torch.zeros((), device=self.device))
        if not has_row(self.trainer.global_step + 1, self.trainer):
            return total
        numbers = {f"train/loss/{name}": loss.detach() for name, loss in losses.items()}
        self._parts.append({**numbers, "train/loss": total.detach()})
        if ends_step(self.trainer):
            self._log_step()
        return total

    def _log_step(self) -> None:
        """Log the means over the parts of the step: equal parts have the mean of the whole."""
        for name in self._parts[0]:
            self.log(name, torch.stack([part[name] for part in self._parts]).mean(), sync_dist=True)
        self._parts.clear()
        for group in self.trainer.optimizers[0].param_groups:
            self.log(f"train/lr/{group.get('name', 'all')}", group["lr"])


class DepthTask(Task):
    """A task whose outcome is the depth model itself."""

    model: DepthModel
    validated_on = LABELLED

    def count_flops(self, batch: Batch) -> int:
        """Those of the model on the images of all streams; the losses need none that count."""
        shapes = (stream["image"].shape for stream in batch.values())
        return sum(shape[0] * count_flops(self.model.config, *shape[2:]).training for shape in shapes)

    def configure_model(self) -> None:
        """With `trainer=fsdp`, shard the weights over the devices, one block at a time."""
        if self.device_mesh is not None:
            self.model.to(memory_format=torch.contiguous_format)  # the only layout that can be cut
            share_out(
                self.model,
                self.model.pretrained.blocks,
                self.device_mesh["data_parallel"],
                methods=("forward_features", "route"),
            )

    def snapshot(self) -> DepthModel:
        """A copy of the model as it stands, whole on every rank, each of which must call this; in eval mode."""
        state = self.model.state_dict()
        whole = {name: x.full_tensor() if isinstance(x, DTensor) else x.clone() for name, x in state.items()}
        return assemble(self.model.config, whole, source="this run")

    def gather(self) -> None:
        """Have the whole model on every rank, each of which must call this."""
        if self.device_mesh is not None:
            self.model = self.snapshot()

    @torch.no_grad()
    def disparity(self, image: ImageBytes) -> Disparity:
        """What the model predicts, as inverse depth: for pictures of it. Every rank must call this."""
        model = self.snapshot()
        prediction = model(self.to_model(image))
        return prediction if model.config.kind == "relative" else 1.0 / prediction

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint say what model it holds, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["depth_model"] = describe(self.model, self.record)

    def save(self, folder: Path, model: DepthModel, record: Mapping[str, Any]) -> None:
        """Write the model's folder."""
        save_model(folder, model, record)


def check_gradient(gradient: nn.Module | None, weights: Mapping[str, float]) -> None:
    """Refuse weights of a loss on edges that is not there: the training would be called what it is not.

    Raises:
        UserError: there are some.
    """
    if gradient is None and (idle := [name for name in weights if name.endswith(EDGES)]):
        raise UserError(
            f"Expected a loss on edges (task.gradient) beside its weights in task.weights, {', '.join(idle)}; V2's "
            "recipes have one, V1's do not."
        )


def supervised_losses(name: str, loss: nn.Module, gradient: nn.Module | None, *maps: Tensor) -> dict[str, Scalar]:
    """The loss of predicted and true maps by its name, and `gradient`, that on their edges, where there is one."""
    losses = {name: loss(*maps)}
    if gradient is not None:
        losses[f"{name}{EDGES}"] = gradient(*maps)
    return losses
