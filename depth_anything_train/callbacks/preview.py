"""Pictures of what the model does, every n steps: image, label, prediction, one row an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from depth_anything_train.callbacks.pictures import draw_batch
from depth_anything_train.callbacks.wandb_mirror import WandbMirror
from depth_anything_train.files import write_bytes
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import require_count
from depth_anything_train.tasks.base import DepthTask
from depth_anything_train.tasks.steps import ends_step


class Preview(Callback):
    """Write `step-XXXXXXXX.png` for the first images of each stream of the batch, or of its last part."""

    def __init__(self, folder: str | Path, *, every_n_steps: int, num_images: int = 3) -> None:
        require_count("preview.num_images", num_images)
        self.folder, self.every_n_steps, self.num_images = Path(folder), every_n_steps, num_images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw on rank zero, every `every_n_steps` steps (0: never); all ranks predict."""
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or not ends_step(trainer):
            return
        streams = {name: stream for name, stream in batch.items() if "disparity" in stream}
        predictions = {name: self._predict(pl_module, stream) for name, stream in streams.items()}
        if not streams or not trainer.is_global_zero:
            return
        picture = draw_batch(streams, predictions)
        write_bytes(self.folder / f"step-{step:08d}.png", encode_png(picture))
        for logger in trainer.loggers:
            if isinstance(logger, WandbMirror):
                logger.log_image("previews", picture, step=step)

    def _predict(self, pl_module: LightningModule, stream: dict[str, Tensor]) -> Tensor:
        image = stream["image"][: self.num_images]
        with torch.autocast(image.device.type, enabled=False):
            assert isinstance(pl_module, DepthTask)
            return pl_module.disparity(image)
