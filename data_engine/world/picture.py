"""Air, lens and sensor: from light to the picture that is stored."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.world.appearance import Air, Appearance, Sensor
from data_engine.world.materials import noise
from data_engine.world.raycast import see
from data_engine.world.scene import Scene
from data_engine.world.shading import draw, lit_surfaces, sky_light, sun_direction, tint
from data_engine.world.shapes import Array


def photograph(
    scene: Scene, look: Appearance, rng: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8]]:
    """Image (H, W, 3) as RGB bytes, depth in metres (H, W) with inf on the sky, class ids (H, W)."""
    seen = see(scene, height, width)
    sun = sun_direction(look.light, rng)
    light = np.zeros((3, height * width), np.float32)
    light[:, seen.pixels] = lit_surfaces(scene, seen, look.light, sun, rng)
    sky, colours = sky_light(seen, look.light, sun, rng)
    light[:, sky] = colours
    distance = seen.depth_m.ravel() / np.float32(scene.usual_distance)
    light = haze(light, distance, look.air, rng, height, width)
    image = develop(light.reshape(3, height, width).transpose(1, 2, 0), look.sensor, rng)
    return image, seen.depth_m, seen.classes


def haze(light: Array, distance: Array, air: Air, rng: np.random.Generator, height: int, width: int) -> Array:
    """Mix the colour of the air into the light (3, H*W) of things at `distance` (in usual distances)."""
    thickness = draw(rng, air.thickness)
    if thickness < 0.02:
        return light
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(height)
    u, v = x.ravel() + np.float32(rng.uniform(0, 8)), y.ravel() + np.float32(rng.uniform(0, 8))
    uneven = 1 + np.float32(draw(rng, air.patches)) * (2 * noise(u, v) - 1)
    # The sky is a few usual distances away: it is veiled, not lost.
    through = np.exp(-np.float32(thickness) * uneven * np.minimum(distance, 4))
    colour = tint(air.colour) * np.float32(rng.uniform(0.6, 1.2))
    return colour + (light - colour) * through


def develop(light: Array, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """RGB bytes (H, W, 3) of linear light (H, W, 3) as this sensor records it."""
    height, width = light.shape[:2]
    sigma = draw(rng, sensor.blur) * height / 168
    light = np.ascontiguousarray(light)
    if sigma > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), sigma)
    balance = 1 + rng.uniform(-1, 1, 3) * sensor.balance * np.array([1, 0.3, 1])
    light *= (balance * draw(rng, sensor.exposure)).astype(np.float32)
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    light *= (1 - np.float32(draw(rng, sensor.vignette) / 2) * (y[:, None] ** 2 + x**2))[..., None]
    image = np.sqrt(np.clip(light, 0, 1))
    remains = np.float32(draw(rng, sensor.colour))
    if remains < 1:
        grey = image @ np.array([[0.299], [0.587], [0.114]], np.float32)
        image = grey + (image - grey) * remains
    image = (image - np.float32(0.5)) * np.float32(draw(rng, sensor.contrast)) + np.float32(0.5)
    noisy = draw(rng, sensor.noise)
    if noisy > 0:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noisy)
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
