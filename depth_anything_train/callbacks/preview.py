"""Pictures of what the model does, every n steps: image, label, prediction, one row an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from depth_anything_train.ops.colors import colorize
from depth_anything_train.runtime import write_bytes


class Preview(Callback):
    """Write `step-XXXXXXXX.png` for the first images of each stream of the batch, drawn from copies."""

    def __init__(self, folder: str | Path, *, every_n_steps: int, num_images: int = 3) -> None:
        self.folder, self.every_n_steps, self.num_images = Path(folder), every_n_steps, num_images

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw on rank zero, every `every_n_steps` steps (0: never)."""
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or not trainer.is_global_zero:
            return
        streams = batch.values() if "image" not in batch else [batch]
        rows = [row for stream in streams if "disparity" in stream for row in self._rows(pl_module, stream)]
        if not rows:
            return
        picture = np.concatenate(rows)
        _, png = cv2.imencode(".png", picture[..., ::-1])
        write_bytes(self.folder / f"step-{step:08d}.png", png.tobytes())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("previews", [picture], step=step)

    @torch.no_grad()
    def _rows(self, pl_module: LightningModule, stream: dict[str, torch.Tensor]) -> list[np.ndarray]:
        image = stream["image"][: self.num_images]
        with torch.autocast(image.device.type, enabled=False):
            task: Any = pl_module
            prediction = task.model(task.to_model(image)).float().cpu().numpy()[:, 0]
        label, valid = stream["disparity"].cpu().numpy()[:, 0], stream["valid"].cpu().numpy()[:, 0]
        pictures = image.permute(0, 2, 3, 1).cpu().numpy()
        return [
            np.concatenate([pictures[i], colorize(label[i], valid[i]), colorize(prediction[i])], axis=1)
            for i in range(len(pictures))
        ]
