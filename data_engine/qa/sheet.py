"""A contact sheet: images beside their labels in one picture, for a person to look at."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import decode_classes, decode_label
from depth_anything_train.data.schema import IMAGES, SEGMENTED, BadSample, Record
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.ops.colormaps import INVALID_GREY, color_classes, colorize
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError, keyed_seed, require_count

TILE_WIDTH, TILE_HEIGHT = 240, 180


def contact_sheet(folder: ShardFolder, num_samples: int, seed: int) -> bytes:
    """Some samples, drawn by the seed, as one PNG: image beside label; near is red, far blue, invalid grey.

    Raises:
        UserError: `num_samples` is below 1, or the folder has none.
    """
    require_count("num_samples", num_samples)
    if not len(folder):
        raise UserError(f"Expected samples for the sheet in {folder.path}, but there are none.")
    kind = folder.info["kind"]
    images = folder.open_images()
    order = np.random.default_rng(keyed_seed(seed, "sheet")).permutation(len(folder))[:num_samples]
    tiles: list[NDArray[np.uint8]] = []
    for index in order.tolist():
        tiles.append(_tile(_image_or_grey(images[index])))
        if kind != IMAGES:
            tiles.append(_tile(_label_picture(folder[index], kind)))
    columns = 6
    tiles += [_tile(np.full((1, 1, 3), 255, np.uint8))] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return encode_png(np.vstack(rows))


def _image_or_grey(record: Record) -> NDArray[np.uint8]:
    try:
        return decode_image(record.image)
    except BadSample:  # its label is invalid everywhere
        return np.full((1, 1, 3), INVALID_GREY, np.uint8)


def _label_picture(record: Record, kind: str) -> NDArray[np.uint8]:
    if kind == SEGMENTED:
        return color_classes(decode_classes(record, decode_image(record.image).shape))
    return _coloured(*decode_label(*record.label(), record.meta))


def _coloured(disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Points grow to what is left of them in a tile, the nearest on top, so that sparse labels can be seen."""
    shrink = max(disparity.shape[0] / TILE_HEIGHT, disparity.shape[1] / TILE_WIDTH, 1)
    kernel = np.ones((round(shrink), round(shrink)), np.uint8)
    grown = cv2.dilate(np.where(valid, disparity, -1), kernel).astype(np.float32)
    return colorize(grown, grown >= 0)


def _tile(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fit a picture into a white tile."""
    height, width = picture.shape[:2]
    factor = min(TILE_HEIGHT / height, TILE_WIDTH / width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    tile = np.full((TILE_HEIGHT + 4, TILE_WIDTH + 4, 3), 255, np.uint8)
    top, left = (TILE_HEIGHT - size[1]) // 2 + 2, (TILE_WIDTH - size[0]) // 2 + 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
