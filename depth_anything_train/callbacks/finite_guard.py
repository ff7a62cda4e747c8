"""Skip and count steps whose gradients are not finite, on every rank; too many in a row stop the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

import safetensors.torch
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from depth_anything_train.callbacks.pictures import draw_batch
from depth_anything_train.files import write_bytes
from depth_anything_train.ops.async_scalar import AsyncScalar
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError, console
from depth_anything_train.tasks.steps import has_row
from depth_anything_train.types import Batch


class Batches(Protocol):
    """A datamodule that can load the batch of a step once more."""

    def batch(self, step: int, *, rank: int, world_size: int, parts: int, part: int) -> Batch: ...  # noqa: D102


class _Look(NamedTuple):
    step: int  # counted from 1, as in the record of numbers
    finite: AsyncScalar


class FiniteGuard(Callback):
    """Look at the gradient norm before each optimiser step.

    Gradients are averaged over ranks before this hook, and one NaN makes the average NaN everywhere: every rank sees
    the same norm and comes to the same decision without talking. A fused optimiser skips the step on the device itself,
    and this process learns of it a step later, so that it never waits for the device.

    Args:
        max_in_a_row: skipped steps in a row that stop the run.
        clip_norm: a longer gradient is scaled down to this norm; None leaves it. (Lightning's own clipping refuses
            the fused optimiser.)
        folder: where the batches of skipped steps are put aside, as `step-XXXXXXXX.safetensors` and `.png`.
        keep: how many are; a run that diverges would fill the disk.
    """

    def __init__(
        self,
        *,
        max_in_a_row: int = 10,
        clip_norm: float | None = None,
        folder: str | Path | None = None,
        keep: int = 3,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"Expected guard.clip_norm to be null or a norm above 0, but got {clip_norm}.")
        self.max_in_a_row, self.clip_norm = max_in_a_row, clip_norm
        self.folder, self.keep = None if folder is None else Path(folder), keep
        self.skipped = 0
        self.in_a_row = 0
        self._trainer: Trainer | None = None
        self._look: _Look | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where batches come from."""
        self._trainer = trainer

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norm; skip the step when it is not finite, which leaves weights and moments untouched.

        Raises:
            UserError: `max_in_a_row` steps in a row, up to the one before, were not finite.
        """
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # weights may be shared out
        if has_row(trainer.global_step + 1, trainer):
            pl_module.log("train/gradient_norm", norm)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self._judge()
        finite = torch.isfinite(norm)
        if any(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        elif not finite:
            optimizer.zero_grad(set_to_none=True)
        self._look = _Look(trainer.global_step + 1, AsyncScalar(finite))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last step too.

        Raises:
            UserError: `max_in_a_row` steps in a row were not finite.
        """
        self._judge()

    def _judge(self) -> None:
        """Count the step that was looked at last.

        Raises:
            UserError: it is the last of `max_in_a_row` that were not finite.
        """
        self._count()
        if self.in_a_row >= self.max_in_a_row:
            raise UserError(
                f"{self.in_a_row} steps in a row had gradients that are not finite; lower the learning rate, or look "
                f"for broken labels{f' in {self.folder}' if self.folder else ''}, then with `verify`."
            )

    def _count(self) -> None:
        look, self._look = self._look, None
        if look is None:
            return
        if look.finite.read():
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        aside = self._put_aside(look.step) if self.skipped <= self.keep else ""
        if self._trainer is None or self._trainer.is_global_zero:  # all ranks skip it
            console.print(
                f"Step {look.step} is skipped: its gradient is not finite ({self.skipped} so far).{aside}",
                soft_wrap=True,
            )

    def _put_aside(self, step: int) -> str:
        """Write the batch of this rank that was trained on, and say where; "" where it cannot be loaded again."""
        trainer = self._trainer
        data: Batches | None = getattr(trainer, "datamodule", None)
        if self.folder is None or trainer is None or data is None:
            return ""
        rank, repeat = trainer.global_rank, trainer.accumulate_grad_batches
        name = f"step-{step:08d}" + (f"-rank-{rank}" if trainer.world_size > 1 else "")
        for turn in range(repeat):
            batch = data.batch(step - 1, rank=rank, world_size=trainer.world_size, parts=repeat, part=turn)
            path = self.folder / (f"{name}-{turn}.safetensors" if repeat > 1 else f"{name}.safetensors")
            write_bytes(path, pack_batch(batch, step=step, rank=rank, share=rank * repeat + turn))
            write_bytes(path.with_suffix(".png"), encode_png(draw_batch(batch)))
        return f" The batch is in {path}, and a picture beside it."

    def state_dict(self) -> dict[str, int]:
        """The counters, so that they outlive an interruption."""
        self._count()
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the counters up again."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def pack_batch(batch: Batch, *, step: int, rank: int, share: int) -> bytes:
    """A batch as safetensors: its tensors by `stream/quantity`; `step`, `rank` and each list of texts as metadata.

    `stream/position` is the place of each image in the stream's global batch, of which this is share number `share`.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {"step": str(step), "rank": str(rank)}
    for stream, content in batch.items():
        for quantity, value in content.items():
            if isinstance(value, Tensor):
                tensors[f"{stream}/{quantity}"] = value.contiguous()
            else:
                metadata[f"{stream}/{quantity}"] = json.dumps(value)
        count = len(content["image"])
        tensors[f"{stream}/position"] = torch.arange(share * count, (share + 1) * count)
    return safetensors.torch.save(tensors, metadata)
