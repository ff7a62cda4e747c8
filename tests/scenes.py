"""Small scenes on disk: images and disparity that belong together, as `prepare` would write them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = 28  # two patches


def scene(number: int, height: int = SIZE + 14, width: int = SIZE + 28) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image and a disparity map that belong together: a floor that comes nearer, and a box on it."""
    rng = np.random.default_rng(number)
    disparity = np.repeat(np.linspace(0.05, 1, height, dtype=np.float32)[:, None], width, axis=1)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    disparity[top : top + height // 3, left : left + width // 3] = rng.uniform(0.5, 1.5)
    image = (disparity[..., None] / disparity.max() * rng.uniform(80, 255, 3)).astype(np.uint8)
    return image, disparity


def encode(image: np.ndarray, extension: str = "jpg") -> bytes:
    """Encode RGB as the given kind of file."""
    return cv2.imencode(f".{extension}", image[..., ::-1])[1].tobytes()


def write_shards(folder: Path, kind: str, counts: tuple[int, ...] = (6, 5), first: int = 0) -> Path:
    """Write labelled or image shards of small scenes, as `prepare` would."""
    from data_engine.writer import ShardWriter
    from depth_anything_train.data.dz16 import encode_dz16

    number = first
    for shard, count in enumerate(counts):
        with ShardWriter(folder / f"shard-{shard:06d}.tar") as writer:
            for _ in range(count):
                image, disparity = scene(number)
                members = {"jpg": encode(image)}
                if kind == "labelled":
                    meta = {
                        "source": "scenes",
                        "kind": "labelled",
                        "quantity": "disparity",
                        "unit": "m",
                        "scale": 1.0,
                    }
                    members["disparity.dz16"] = encode_dz16(disparity, np.ones(disparity.shape, bool))
                    members["json"] = json.dumps(meta).encode()
                writer.add(f"scene-{number:04d}", members)
                number += 1
            writer.commit()
    (folder / "dataset.json").write_text(json.dumps({"schema": 1, "kind": kind, "source": "scenes"}))
    return folder
