"""Shards of pictures that show where they come from: red is the column, green the row, blue the sample."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZES = ((28, 44), (40, 28), (56, 56), (30, 52))


def picture(number: int) -> np.ndarray:
    """RGB (H, W, 3): red 4 * column, green 4 * row, blue the number."""
    height, width = SIZES[number % len(SIZES)]
    rows, columns = np.mgrid[:height, :width]
    return np.stack([4 * columns, 4 * rows, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def disparity_label(number: int) -> bytes:
    """A label that grows with the column; its first row is invalid."""
    from depth_anything_train.data.dz16 import encode_dz16

    disparity = picture(number)[..., 0].astype(np.float32)
    valid = np.ones(disparity.shape, bool)
    valid[0] = False
    return encode_dz16(disparity, valid)


def labelled_members(number: int) -> dict[str, bytes]:
    classes = (picture(number)[..., 1] // 4).astype(np.uint8)
    meta = {"source": "pictures", "kind": "labelled", "quantity": "disparity", "unit": "unknown", "scale": 1.0}
    return {
        "png": png(picture(number)),
        "disparity.dz16": disparity_label(number),
        "classes.png": png(classes),
        "json": json.dumps(meta).encode(),
    }


def write_folder(folder: Path, info: dict, shards: list[list[tuple[str, dict[str, bytes]]]]) -> Path:
    from data_engine.writer import ShardWriter
    from depth_anything_train.data.shards import Shard

    for number, samples in enumerate(shards):
        with ShardWriter(folder / f"{number:05d}.tar") as writer:
            for key, members in samples:
                writer.add(key, members)
            written = writer.commit()
        if info["kind"] == "pseudo_labels":
            images = Shard(folder / info["images"] / f"{number:05d}.tar")
            manifest = {"flags": {}, "input": images.digest, "output": written.digest}
            (folder / f"{number:05d}.json").write_text(json.dumps(manifest))
    (folder / "dataset.json").write_text(json.dumps({"schema": 1, "source": "pictures", **info}))
    return folder
