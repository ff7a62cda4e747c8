"""Light and air: from what the pixels see to the light that reaches the camera."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from data_engine.world.appearance import Colour, Light, Range
from data_engine.world.materials import noise
from data_engine.world.raycast import Surfaces
from data_engine.world.scene import Scene
from data_engine.world.shapes import Array, dot, vector

MOST_LAMPS = 4
"""Lamps of a scene that throw light: those nearest to the camera."""


def draw(rng: np.random.Generator, span: Range) -> float:
    """A number from a range."""
    return float(rng.uniform(*span))


def tint(colour: Colour) -> Array:
    """A colour (3, 1) that multiplies (3, N)."""
    return np.array(colour, np.float32)[:, None]


def sun_direction(light: Light, rng: np.random.Generator) -> Array:
    """Unit vector (3,) towards the sun."""
    around, up = rng.uniform(0, 2 * math.pi), math.radians(draw(rng, light.sun_height))
    return vector(math.cos(up) * math.sin(around), math.sin(up), math.cos(up) * math.cos(around))


def shadows(scene: Scene, points: Array, normals: Array, sun: Array, softness: float) -> tuple[Array, Array]:
    """How much sun (N,) and how much sky (N,) level ground gets between the things that stand on it, each 0 to 1.

    A thing's shadow is a streak from its foot away from the sun; the sky is kept off close to its foot.
    """
    lit, open_sky = np.ones(points.shape[1], np.float32), np.ones(points.shape[1], np.float32)
    level = np.flatnonzero(normals[1] > 0.8)
    x, y, z = points[:, level]
    for thing in scene.footprints:
        length = min(thing.height / max(float(sun[1]), 0.15), 4 * thing.height)
        dx, dz = x - np.float32(thing.x), z - np.float32(thing.z)
        reach = np.float32(2 * thing.radius + 0.2 + length)
        here = np.flatnonzero((np.abs(dx) < reach) & (np.abs(dz) < reach) & (np.abs(y - np.float32(thing.y)) < 0.3))
        if here.size == 0:
            continue
        dx, dz = dx[here], dz[here]
        ex, ez = np.float32(-sun[0] * length), np.float32(-sun[2] * length)
        along = np.clip((dx * ex + dz * ez) / np.float32(max(length * length, 1e-6)), 0, 1)
        streak = np.hypot(dx - along * ex, dz - along * ez) - np.float32(0.8 * thing.radius)
        edge = np.float32(0.05 + softness * thing.radius)
        lit[level[here]] *= np.clip(streak / edge, np.float32(0.25), 1)
        gap = np.hypot(dx, dz) - np.float32(0.9 * thing.radius)
        open_sky[level[here]] *= np.clip(np.float32(0.45) + gap / np.float32(0.6 * thing.radius + 0.05), 0.45, 1)
    return lit, open_sky


def lit_surfaces(scene: Scene, seen: Surfaces, light: Light, sun: Array, rng: np.random.Generator) -> Array:
    """Light (3, N) that the surfaces send to the camera, before the air takes its part."""
    normals, points = seen.normals, seen.points
    lit, open_sky = shadows(scene, points, normals, sun, softness=rng.uniform(0.1, 0.8))
    direct = np.maximum(dot(sun, normals), 0) * lit
    upward = np.float32(0.7) + np.float32(0.3) * normals[1]
    total = tint(light.sun_colour) * np.float32(draw(rng, light.sun)) * direct
    total += tint(light.ambient_colour) * np.float32(draw(rng, light.ambient)) * (upward * open_sky)
    eye = scene.camera.position
    nearest = sorted(scene.lamps, key=lambda lamp: float(np.linalg.norm(lamp.position - eye)))[:MOST_LAMPS]
    lamps = [(lamp.position, lamp.reach, draw(rng, light.lamps)) for lamp in nearest]
    lamps.append((eye, scene.usual_distance, draw(rng, light.headlamp)))
    shine = np.zeros(points.shape[1], np.float32)
    for position, reach, strength in lamps:
        if strength > 0.05:
            shine += np.float32(strength) * lamp_light(points, normals, position, reach)
    total += tint(light.lamp_colour) * shine
    return seen.colour * (total + seen.glow)


def lamp_light(points: Array, normals: Array, position: Array, reach: float) -> Array:
    """Light (N,) that a lamp throws on surfaces: 1 when close and square on, half at `reach` metres."""
    towards = position[:, None] - points
    square = dot(towards, towards)
    slant = np.maximum(dot(towards, normals), 0) / np.sqrt(square + np.float32(1e-6))
    return slant / (1 + square / np.float32(reach * reach))


def sky_light(seen: Surfaces, light: Light, sun: Array, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
    """Flat indices (M,) of the pixels that see the sky and its light (3, M)."""
    pixels = np.flatnonzero(np.isinf(seen.depth_m))
    direction = seen.rays.reshape(3, -1)[:, pixels]
    direction = direction / np.sqrt(dot(direction, direction))
    height = np.sqrt(np.clip(direction[1], 0, 1))
    zenith, horizon = tint(light.zenith), tint(light.horizon)
    sky = horizon + (zenith - horizon) * height
    flat = np.maximum(direction[1], np.float32(0.08))
    u, v = direction[0] / flat * np.float32(0.5) + rng.uniform(0, 8), direction[2] / flat * np.float32(0.5)
    cover = draw(rng, light.clouds)
    cloud = np.clip((noise(u, v) - np.float32(1 - cover)) * 3, 0, 1) * np.float32(0.9)
    sky += (horizon * np.float32(1.1) - sky) * cloud
    glare = np.maximum(dot(sun, direction), 0) ** 60
    sky += tint(light.sun_colour) * glare * np.float32(0.8 if light.stars == 0 else 0.1)
    if light.stars > 0:
        sky += (rng.random(pixels.size, dtype=np.float32) > 0.998) * (1 - cloud) * np.float32(light.stars * 0.6)
    return pixels, sky
