"""What the tests of raw test and metric sets share: pictures to put into miniatures, `prepare`, and reading back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import Record


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """RGB noise (H, W, 3): no two are equal and no channel can be mistaken for another."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_photograph(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    extension = ".jpg" if path.suffix.lower() == ".jpg" else ".png"
    path.write_bytes(cv2.imencode(extension, photograph(height, width, seed)[..., ::-1])[1].tobytes())
    return path


def write_png16(path: Path, stored: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.asarray(stored, np.uint16))[1].tobytes())
    return path


def prepare_set(name: str, root: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, Record]]:
    """What `depth-anything prepare dataset=NAME root=ROOT ...` writes: dataset.json, and the samples by key."""
    from data_engine.prepare import main
    from depth_anything_train.command import compose
    from depth_anything_train.data.shards import ShardFolder

    out = root.parent / f"shards-{len(list(root.parent.iterdir()))}"
    main.__wrapped__(compose("prepare", [f"dataset={name}", f"root={root}", f"out={out}", "workers=0", *overrides]))
    shards = ShardFolder(out)
    records = [shards[number] for number in range(len(shards))]
    return shards.info, {record.key: record for record in records}


def depth_of(record: Record) -> NDArray[np.float32]:
    """Depth in the unit of the label (H, W) as training and evaluation see it; 0 where it is invalid."""
    disparity, valid = decode_label(*record.label(), record.meta)
    return np.divide(1, disparity, out=np.zeros_like(disparity), where=valid & (disparity > 0))
