"""What surfaces are painted with: colours by role, patterns in metres that fade before they flicker."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data_engine.world.shapes import Array

PATTERNS = ("plain", "grain", "checker", "stripes", "bricks", "planks", "panes", "dots")
PLAIN, GRAIN, CHECKER, STRIPES, BRICKS, PLANKS, PANES, DOTS = range(len(PATTERNS))


@dataclass(frozen=True)
class Material:
    """How a surface is painted: two colours (RGB, 0 to 1, linear light), a pattern that mixes them, its period in
    metres, how rough its grain is (0 to 1), and how much it shines by itself."""

    first: tuple[float, float, float]
    second: tuple[float, float, float]
    pattern: int
    period: float
    grain: float = 0.15
    glow: float = 0.0


@dataclass(frozen=True)
class Role:
    """What a part is made of, as ranges to draw from: hue, saturation, brightness, patterns, period in metres."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    patterns: tuple[int, ...]
    period: tuple[float, float] = (0.1, 0.5)


ANY = (0.0, 1.0)
ROLES = {
    "wall": Role(ANY, (0.0, 0.25), (0.55, 0.95), (PLAIN, GRAIN, STRIPES), (0.2, 0.6)),
    "floor": Role((0.04, 0.12), (0.2, 0.6), (0.3, 0.75), (PLANKS, CHECKER, GRAIN), (0.15, 0.5)),
    "ceiling": Role(ANY, (0.0, 0.08), (0.8, 1.0), (PLAIN, GRAIN), (0.3, 0.6)),
    "wood": Role((0.04, 0.1), (0.35, 0.7), (0.25, 0.75), (GRAIN, PLANKS), (0.1, 0.3)),
    "cloth": Role(ANY, (0.2, 0.7), (0.25, 0.85), (PLAIN, GRAIN, STRIPES, CHECKER), (0.05, 0.2)),
    "plastic": Role(ANY, (0.5, 0.95), (0.4, 0.95), (PLAIN, STRIPES, DOTS), (0.04, 0.15)),
    "card": Role((0.06, 0.11), (0.3, 0.55), (0.45, 0.7), (PLAIN, STRIPES), (0.1, 0.25)),
    "metal": Role((0.5, 0.65), (0.0, 0.15), (0.35, 0.75), (PLAIN,)),
    "paint": Role(ANY, (0.4, 0.9), (0.25, 0.9), (PLAIN,)),
    "rubber": Role(ANY, (0.0, 0.1), (0.05, 0.15), (PLAIN,)),
    "asphalt": Role(ANY, (0.0, 0.1), (0.2, 0.4), (GRAIN,), (0.3, 0.8)),
    "paving": Role((0.05, 0.15), (0.0, 0.2), (0.45, 0.7), (CHECKER, BRICKS), (0.3, 0.8)),
    "facade": Role((0.0, 0.15), (0.05, 0.5), (0.4, 0.9), (PANES,), (2.2, 3.6)),
    "masonry": Role((0.0, 0.1), (0.2, 0.6), (0.4, 0.8), (BRICKS,), (0.3, 0.8)),
    "grass": Role((0.2, 0.34), (0.35, 0.7), (0.25, 0.55), (GRAIN,), (0.5, 2.0)),
    "soil": Role((0.05, 0.12), (0.25, 0.5), (0.35, 0.65), (GRAIN,), (0.4, 1.5)),
    "leaf": Role((0.22, 0.38), (0.4, 0.8), (0.15, 0.5), (GRAIN,), (0.2, 0.5)),
    "bark": Role((0.04, 0.1), (0.3, 0.5), (0.2, 0.4), (GRAIN, STRIPES), (0.1, 0.2)),
    "stone": Role((0.05, 0.6), (0.0, 0.15), (0.35, 0.65), (GRAIN,), (0.3, 0.8)),
    "skin": Role((0.03, 0.08), (0.3, 0.6), (0.35, 0.85), (PLAIN,)),
    "pane": Role((0.5, 0.6), (0.05, 0.25), (0.75, 1.0), (PLAIN,)),
    "print": Role(ANY, (0.3, 0.9), (0.3, 0.9), (DOTS, CHECKER, STRIPES, GRAIN), (0.1, 0.4)),
}


@dataclass(frozen=True)
class Palette:
    """How an appearance bends the roles: `hue_freedom` is the chance of any hue at all, `pattern_freedom` of any
    pattern, `saturation` multiplies, `contrast` is how far the two colours of a pattern lie apart."""

    hue_freedom: float = 0.0
    pattern_freedom: float = 0.0
    saturation: float = 1.0
    contrast: tuple[float, float] = (0.15, 0.4)
    grain: tuple[float, float] = (0.08, 0.25)

    def draw(self, role: str, rng: np.random.Generator, *, glow: float = 0.0) -> Material:
        """One material for a part made of `role`, a name in `ROLES`."""
        made = ROLES[role]
        free = rng.random() < self.hue_freedom
        hue = rng.random() if free else rng.uniform(*made.hue)
        saturation = min(1.0, self.saturation * (rng.uniform(0.3, 0.9) if free else rng.uniform(*made.saturation)))
        value = rng.uniform(*made.value)
        contrast = rng.uniform(*self.contrast)
        second = value * (1 - contrast) if rng.random() < 0.6 else min(1.0, value * (1 + contrast))
        other_hue = rng.random() if free else hue + rng.normal(0, 0.03)
        anything = rng.random() < self.pattern_freedom
        pattern = int(rng.integers(len(PATTERNS)) if anything else rng.choice(made.patterns))
        return Material(
            first=linear(hue, saturation, value),
            second=linear(other_hue, saturation * rng.uniform(0.7, 1.0), second),
            pattern=pattern,
            period=rng.uniform(*made.period),
            grain=rng.uniform(*self.grain),
            glow=glow,
        )


def linear(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """A colour as linear light."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return red**2.2, green**2.2, blue**2.2


@lru_cache(maxsize=1)
def noise_tile(size: int = 256) -> Array:
    """A tileable picture (size, size) of smooth noise on several scales, 0 to 1, with flat statistics."""
    rng = np.random.default_rng(7)
    total = np.zeros((size, size), np.float32)
    for octave, cells in enumerate((8, 16, 32, 64)):
        grid = rng.random((cells, cells), dtype=np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        scale = size // cells
        large = cv2.resize(wrapped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += large[2 * scale : 2 * scale + size, 2 * scale : 2 * scale + size] * np.float32(0.7**octave)
    ranks = np.argsort(np.argsort(total, axis=None))
    return (ranks.reshape(size, size) / (size * size - 1)).astype(np.float32)


def noise(u: Array, v: Array) -> Array:
    """Smooth noise at (u, v), which repeats after 8 in both directions; 0 to 1, in shape (N,)."""
    tile = noise_tile()
    scale = np.float32(tile.shape[0] / 8)
    # cv2.remap takes at most 32767 columns, and at least one pixel.
    width = 224
    rest = -u.size % width if u.size else width
    maps = [np.pad(np.mod(a * scale, np.float32(256)), (0, rest)).reshape(-1, width) for a in (u, v)]
    return cv2.remap(tile, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).ravel()[: u.size]


def square_wave(x: Array) -> Array:
    """1 on the first half of each unit, 0 on the second."""
    return (x - np.floor(x) < 0.5).astype(np.float32)


def hash_cells(u: Array, v: Array) -> Array:
    """A fixed random number, 0 to 1, for each unit cell."""
    wild = np.sin(np.floor(u) * np.float32(12.9898) + np.floor(v) * np.float32(78.233)) * np.float32(437.585)
    return wild - np.floor(wild)


def mix_of(pattern: int, u: Array, v: Array) -> tuple[Array, float]:
    """How much of the second colour a pattern shows at (u, v), in periods, and its mean over the plane."""
    if pattern == GRAIN:
        return noise(u * np.float32(0.5), v * np.float32(0.5)), 0.5
    if pattern == CHECKER:
        return np.abs(square_wave(u / 2) - square_wave(v / 2)), 0.5
    if pattern == STRIPES:
        return square_wave(u), 0.5
    if pattern == BRICKS:
        shifted = u / 2 + square_wave(v / 2) / 2
        joint = (v - np.floor(v) < 0.12) | (shifted - np.floor(shifted) < 0.06)
        return joint.astype(np.float32), 0.17
    if pattern == PLANKS:
        return hash_cells(u, v / 6 + hash_cells(u, np.zeros_like(v))), 0.5
    if pattern == PANES:
        inside = (np.abs(u - np.floor(u) - 0.5) < 0.26) & (np.abs(v - np.floor(v) - 0.5) < 0.3)
        return inside.astype(np.float32), 0.31
    if pattern == DOTS:
        inside = np.square(u - np.floor(u) - 0.5) + np.square(v - np.floor(v) - 0.5) < 0.09
        return inside.astype(np.float32), 0.28
    return np.zeros_like(u), 0.0


def paint(materials: Sequence[Material], which: NDArray[np.int16], uv: Array, footprint: Array) -> tuple[Array, Array]:
    """Colours (3, N) of N points and the light they give (N,), as a multiple of their colour.

    `which` says what material each is made of, `uv` (2, N) are its texture coordinates in metres, and `footprint` (N,)
    is how many metres of the surface its pixel covers: a pattern finer than the pixel fades into its mean.
    """
    table = np.array([(*m.first, *m.second, m.period, m.grain, m.glow, m.pattern) for m in materials], np.float32).T
    period, patterns = table[6][which], table[9].astype(np.int16)[which]
    u, v = uv / period
    seen = np.clip(np.float32(1.5) - np.float32(3) * footprint / period, 0, 1)
    share, glow = np.zeros_like(u), table[8][which]
    for pattern in np.unique(patterns):
        here = patterns == pattern
        mix, mean = mix_of(int(pattern), u[here], v[here])
        share[here] = mean + (mix - np.float32(mean)) * seen[here]
        if pattern == PANES:
            glow[here] *= share[here] * (hash_cells(u[here], v[here]) < 0.5)
    first = table[:3][:, which]
    colour = first + (table[3:6][:, which] - first) * share
    fine = np.clip(np.float32(1.5) - np.float32(24) * footprint, 0, 1) * table[7][which]
    return colour * (1 + fine * (2 * noise(uv[0] * 3, uv[1] * 3) - 1)), glow
