"""Small pictures with classes on disk: in the official layout of ADE20K, and as the shards that `prepare` makes of it.

The class can be seen: a bright box (1) and a dark one (2) on a grey ground (0), a stripe without class, and no class 3.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

NAMES = ("ground", "bright", "dark", "never")


def classes_of(number: int, height: int = 60, width: int = 84) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image and the class of every pixel, 255 where there is none."""
    rng = np.random.default_rng(number)
    classes = np.zeros((height, width), np.uint8)
    for label, left in ((1, 0), (2, width // 2)):
        top, beside = int(rng.integers(2, height // 3)), left + int(rng.integers(0, width // 6))
        classes[top : top + height // 2, beside : beside + width // 3] = label
    image = np.array([120, 235, 25], np.uint8)[classes]
    image = np.clip(image[..., None] + rng.integers(-12, 13, (height, width, 3)), 0, 255).astype(np.uint8)
    classes[-3:] = 255
    return image, classes


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_segmented(folder: Path, *, count: int, first: int = 0, damaged: tuple[int, ...] = ()) -> Path:
    """Segmented shards of such pictures, as `prepare` would write them."""
    from data_engine.writer import ShardWriter

    with ShardWriter(folder / "00000.tar") as writer:
        for number in range(first, first + count):
            image, classes = classes_of(number)
            label = png(classes)[:-20] if number in damaged else png(classes)
            meta = json.dumps({"source": "boxes", "kind": "segmented"}).encode()
            writer.add(f"box-{number:04d}", {"png": png(image[..., ::-1]), "classes.png": label, "json": meta})
        writer.commit()
    info = {"schema": 1, "kind": "segmented", "source": "boxes", "classes": list(NAMES)}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def write_ade20k(root: Path, *, train: int, val: int) -> Path:
    """A miniature of ADE20K's official folders: codes are classes counted from 1, 0 is none of them."""
    for split, short, numbers in (("training", "train", range(train)), ("validation", "val", range(100, 100 + val))):
        images, labels = root / "images" / split, root / "annotations" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in numbers:
            image, classes = classes_of(number)
            name = f"ADE_{short}_{number:08d}"
            cv2.imwrite(str(images / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            cv2.imwrite(str(labels / f"{name}.png"), np.where(classes == 255, 0, classes + 1).astype(np.uint8))
    return root
