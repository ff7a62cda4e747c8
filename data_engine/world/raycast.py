"""From a scene to what each pixel sees: depth, class, and the surface there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_engine.world.materials import paint
from data_engine.world.scene import CLASS_ID, Scene
from data_engine.world.shapes import MISS, Array, dot


@dataclass(frozen=True)
class Surfaces:
    """What the pixels of a picture see; the N pixels that see a surface are given by their flat index `pixels` (N,).

    Attributes:
        depth_m: (H, W) depth along the optical axis in metres, inf where there is only sky.
        classes: (H, W) class ids.
        rays: (3, H, W) directions through the pixel centres.
        points, normals: (3, N) in world axes, the normals towards the camera's side.
        colour: (3, N) of the material in linear light, 0 to 1.
        glow: (N,) own light as a multiple of the colour.
    """

    depth_m: Array
    classes: NDArray[np.uint8]
    rays: Array
    pixels: NDArray[np.intp]
    points: Array
    normals: Array
    colour: Array
    glow: Array


def first_hits(scene: Scene, rays: Array) -> tuple[Array, NDArray[np.int16]]:
    """Depth (H, W), and the number (H, W) of the part seen, -1 on the sky."""
    height, width = rays.shape[1:]
    depth_m = np.full((height, width), MISS, np.float32)
    seen = np.full((height, width), -1, np.int16)
    windows = scene.camera.windows([part.shape.bounds() for part in scene.parts], height, width)
    for number, (part, window) in enumerate(zip(scene.parts, windows, strict=True)):
        if window is None:
            continue
        t = part.shape.hit(scene.camera.position, rays[:, window[0], window[1]])
        nearer = t < depth_m[window]
        np.copyto(depth_m[window], t, where=nearer)
        np.copyto(seen[window], np.int16(number), where=nearer)
    return depth_m, seen


def see(scene: Scene, height: int, width: int) -> Surfaces:
    """Cast the ray of every pixel centre and look at the surface it meets first."""
    rays = scene.camera.rays(height, width)
    depth_m, seen = first_hits(scene, rays)
    parts = scene.parts
    # In the order of the parts, so that each part's pixels are one slice.
    order = np.argsort(seen, axis=None, kind="stable")
    numbers = seen.ravel()[order]
    starts = np.searchsorted(numbers, np.arange(len(parts) + 1, dtype=np.int16))
    pixels, numbers, starts = order[starts[0] :], numbers[starts[0] :], starts - starts[0]
    t = depth_m.ravel()[pixels]
    directions = rays.reshape(3, -1)[:, pixels]
    points = scene.camera.position[:, None] + t * directions
    normals, uv = np.empty_like(points), np.empty((2, points.shape[1]), np.float32)
    for part, start, stop in zip(parts, starts[:-1], starts[1:], strict=True):
        if start < stop:
            normals[:, start:stop], uv[:, start:stop] = part.shape.surface(points[:, start:stop])
    length = np.sqrt(dot(directions, directions))
    facing = np.abs(dot(directions, normals)) / length
    footprint = t * length / np.float32(scene.camera.focal(width)) / np.maximum(facing, np.float32(0.05))
    material = np.array([part.material for part in parts], np.int16)[numbers]
    colour, glow = paint(scene.materials, material, uv, footprint)
    class_of = np.array([part.class_id for part in parts] + [CLASS_ID["sky"]], np.uint8)
    return Surfaces(depth_m, class_of[seen], rays, pixels, points, normals, colour, glow)
