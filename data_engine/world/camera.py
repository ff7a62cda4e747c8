"""A pinhole camera: the ray of every pixel, and the part of the picture a shape can touch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_engine.world.shapes import NEAR, Array, Bounds, vector


@dataclass(frozen=True)
class Camera:
    """Where the camera stands, where it looks, and its lens.

    Attributes:
        position: (3,) in metres.
        yaw: turn to the right in radians; 0 looks along +z.
        pitch: tilt upwards in radians.
        roll: turn about the optical axis in radians, clockwise.
        view: horizontal angle of view in radians.
    """

    position: Array
    yaw: float
    pitch: float
    roll: float
    view: float

    def focal(self, width: int) -> float:
        """Focal length in pixels of a picture `width` pixels wide; pixels are square."""
        return width / 2 / math.tan(self.view / 2)

    def rotation(self) -> Array:
        """(3, 3): camera axes (right, up, forward) as columns in world axes."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        turn_yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        turn_pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        turn_roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
        return (turn_yaw @ turn_pitch @ turn_roll).astype(np.float32)

    def rays(self, height: int, width: int) -> Array:
        """Directions (3, H, W) through the pixel centres, one metre along the optical axis long."""
        focal = self.focal(width)
        right = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal
        up = -(np.arange(height, dtype=np.float32) + 0.5 - height / 2) / focal
        columns = self.rotation()[:, :, None, None]
        directions = columns[:, 0] * right[None, None, :] + columns[:, 1] * up[None, :, None] + columns[:, 2]
        return directions.astype(np.float32)

    def windows(self, bounds: Sequence[Bounds | None], height: int, width: int) -> list[tuple[slice, slice] | None]:
        """Rows and columns of the picture in which each box can be seen; None for a box out of sight.

        A shape without bounds, or with some of them behind the camera, may be anywhere.
        """
        everything = slice(0, height), slice(0, width)
        finite = [box for box in bounds if box is not None]
        if not finite:
            return [everything for _ in bounds]
        right, up, forward = np.moveaxis(self.rotation().T @ (corners(finite) - self.position[:, None]), 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = width / 2 + self.focal(width) * right / forward
            y = height / 2 - self.focal(width) * up / forward
        # A pixel more on each side, for rounding.
        edges = np.stack([y.min(1) - 1, y.max(1) + 1, x.min(1) - 1, x.max(1) + 1], axis=1)
        edges[forward.min(1) <= NEAR] = 0, height, 0, width
        edges[forward.max(1) <= NEAR] = 0, 0, 0, 0
        found: list[tuple[slice, slice] | None] = []
        limits = np.array([height, height, width, width])
        for top, bottom, left, rest in np.clip(np.rint(edges), 0, limits).astype(int).tolist():
            found.append((slice(top, bottom), slice(left, rest)) if top < bottom and left < rest else None)
        windows = iter(found)
        return [everything if box is None else next(windows) for box in bounds]


def corners(bounds: Sequence[Bounds]) -> Array:
    """Corners (P, 3, 8) of P boxes turned about the vertical axis."""
    centre, half = np.stack([b[0] for b in bounds]), np.stack([b[1] for b in bounds])
    yaw = np.array([b[2] for b in bounds], np.float32)[:, None]
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), np.float32).reshape(3, 8)
    x, y, z = np.moveaxis(half[:, :, None] * signs, 1, 0)
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * x + s * z, y, c * z - s * x], axis=1) + centre[:, :, None]


def stand(x: float, y: float, z: float, *, yaw: float, pitch: float, roll: float, view: float) -> Camera:
    """A camera from angles in degrees."""
    yaw, pitch, roll, view = (math.radians(angle) for angle in (yaw, pitch, roll, view))
    return Camera(position=vector(x, y, z), yaw=yaw, pitch=pitch, roll=roll, view=view)
