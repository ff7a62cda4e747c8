"""Shapes a ray can meet: where it meets them first, and what the surface is like there.

World axes: x right, y up, z forward, in metres. A ray is `origin + t * direction`. The camera scales its directions so
that `t` is the depth along the optical axis, and every distance below is in that unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A float32 array; numpy's annotations take float32 divided by an int for float64, so they are not asked."""

NEAR = np.float32(0.05)
"""Nothing nearer than this is seen."""

FAR = np.float32(400.0)
"""Nothing beyond this is seen: there is the sky."""

MISS = np.float32(np.inf)


Bounds = tuple[Array, Array, float]
"""A box around a shape: its centre (3,), half its size (3,), and its turn about the vertical axis."""


class Shape(Protocol):
    """A surface."""

    def hit(self, origin: Array, rays: Array) -> Array:
        """First t in [NEAR, inf] of each ray: origin (3,), rays (3, ...) -> (...); inf is a miss."""

    def surface(self, points: Array) -> tuple[Array, Array]:
        """Points on it (3, N) -> unit normals outwards (3, N), texture coordinates in metres (2, N)."""

    def bounds(self) -> Bounds | None:
        """A box around it; None where it has no end, so that every ray must be tried."""


def turn(vector: Array, yaw: float) -> Array:
    """Rotate (3, ...) about the vertical axis: from a shape's own axes to the world's; -yaw goes back."""
    if yaw == 0.0:
        return vector
    c, s = np.float32(math.cos(yaw)), np.float32(math.sin(yaw))
    x, y, z = vector
    turned = np.empty_like(vector)
    turned[0], turned[1], turned[2] = c * x + s * z, y, c * z - s * x
    return turned


def dot(one: Array, two: Array) -> Array:
    """Scalar products (...) of (3, ...) and (3, ...): three times as fast as a sum over the first axis."""
    return one[0] * two[0] + one[1] * two[1] + one[2] * two[2]


def vector(*values: float) -> Array:
    """A float32 vector."""
    return np.array(values, np.float32)


def column(values: Array, like: Array) -> Array:
    """(3,) shaped to broadcast against (3, ...)."""
    return values.reshape((3,) + (1,) * (like.ndim - 1))


def box_surface(local: Array, half: Array) -> tuple[Array, Array]:
    """Normals and texture coordinates of points on the faces of a box, in the box's axes."""
    x, y, z = local
    axis = np.argmax(np.abs(local) / half[:, None], axis=0)
    normals = np.where(np.arange(3)[:, None] == axis, np.sign(local), np.float32(0))
    return normals, np.stack([np.where(axis == 0, z, x), np.where(axis == 1, z, y)])


@dataclass(frozen=True)
class Box:
    """A solid box: centre (3,), half its size (3,), turned about the vertical axis."""

    centre: Array
    half: Array
    yaw: float = 0.0

    def hit(self, origin: Array, rays: Array) -> Array:
        """See `Shape.hit`."""
        start, enter, leave = turn(origin - self.centre, -self.yaw), NEAR, MISS
        for position, direction, half in zip(start, turn(rays, -self.yaw), self.half, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                inverse = np.float32(1) / direction
                middle, reach = -position * inverse, half * np.abs(inverse)
                enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
        # A camera inside sees nothing of it: `enter` is then still NEAR.
        return np.where((enter <= leave) & (enter > NEAR), enter, MISS)

    def surface(self, points: Array) -> tuple[Array, Array]:
        """See `Shape.surface`."""
        normals, uv = box_surface(turn(points - self.centre[:, None], -self.yaw), self.half)
        return turn(normals, self.yaw), uv

    def bounds(self) -> Bounds:
        """See `Shape.bounds`."""
        return self.centre, self.half, self.yaw


@dataclass(frozen=True)
class Ellipsoid:
    """A ball of three radii (3,), turned about the vertical axis."""

    centre: Array
    radii: Array
    yaw: float = 0.0

    def hit(self, origin: Array, rays: Array) -> Array:
        """See `Shape.hit`."""
        start = turn(origin - self.centre, -self.yaw) / self.radii
        scaled = turn(rays, -self.yaw) / column(self.radii, rays)
        square = dot(scaled, scaled)
        # From the point nearest to the centre: b * b - a * c would cancel for small, far balls in float32.
        middle = -dot(start, scaled) / square
        nearest = column(start, rays) + middle * scaled
        inside = np.float32(1) - dot(nearest, nearest)
        t = middle - np.sqrt(np.maximum(inside, 0) / square)
        return np.where((inside > 0) & (t >= NEAR), t, MISS)

    def surface(self, points: Array) -> tuple[Array, Array]:
        """See `Shape.surface`."""
        local = turn(points - self.centre[:, None], -self.yaw)
        normals = local / np.square(self.radii)[:, None]
        normals /= np.sqrt(dot(normals, normals))
        around = np.arctan2(local[0], local[2]) * self.radii[0]
        return turn(normals, self.yaw), np.stack([around, local[1]])

    def bounds(self) -> Bounds:
        """See `Shape.bounds`."""
        return self.centre, self.radii, self.yaw


@dataclass(frozen=True)
class Frustum:
    """An upright cylinder or cone with both ends closed; `base` (3,) is the middle of its lower end."""

    base: Array
    height: float
    bottom: float
    top: float

    def hit(self, origin: Array, rays: Array) -> Array:
        """See `Shape.hit`."""
        # Solved around the shape's own distance, where float32 still tells its sides apart.
        middle = np.float32(np.linalg.norm(origin - self.base) / np.linalg.norm(rays.reshape(3, -1)[:, 0]))
        x, y, z = column(origin - self.base, rays) + middle * rays
        dx, dy, dz = rays
        slope = np.float32((self.top - self.bottom) / self.height)
        radius = np.float32(self.bottom) + slope * y
        a = dx * dx + dz * dz - np.square(slope * dy)
        b = x * dx + z * dz - slope * dy * radius
        c = x * x + z * z - radius * radius
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b * b - a * c)
            sides = [(-b - root) / a, (-b + root) / a]
            ends = [-y / dy, (np.float32(self.height) - y) / dy]
            best = np.full_like(x, MISS)
            for t in sides:
                level = y + t * dy
                best = np.where((level >= 0) & (level <= self.height) & (t >= NEAR - middle) & (t < best), t, best)
            for t, limit in zip(ends, (self.bottom, self.top), strict=True):
                within = np.square(x + t * dx) + np.square(z + t * dz) <= limit * limit
                best = np.where(within & (t >= NEAR - middle) & (t < best), t, best)
        return best + middle

    def surface(self, points: Array) -> tuple[Array, Array]:
        """See `Shape.surface`."""
        x, y, z = points - self.base[:, None]
        away = np.maximum(np.hypot(x, z), np.float32(1e-6))
        slope = (self.top - self.bottom) / self.height
        side = np.stack([x / away, np.full_like(x, -slope), z / away]) / np.float32(math.hypot(1, slope))
        # A point is on an end when it is nearer to the end's plane than to the side.
        gap = np.abs(away - self.bottom - slope * y)
        is_top, is_bottom = self.height - y < gap, y < gap
        upright = (is_top.astype(np.float32) - is_bottom) * np.array([[0], [1], [0]], np.float32)
        on_end = is_top | is_bottom
        around = np.arctan2(x, z) * np.float32(max(self.bottom, self.top))
        return np.where(on_end, upright, side), np.stack([np.where(on_end, x, around), np.where(on_end, z, y)])

    def bounds(self) -> Bounds:
        """See `Shape.bounds`."""
        widest = max(self.bottom, self.top)
        return self.base + vector(0, self.height / 2, 0), vector(widest, self.height / 2, widest), 0.0


@dataclass(frozen=True)
class Plane:
    """A level surface without end at height `level`, seen from above (`facing` 1) or from below (-1)."""

    level: float
    facing: int = 1

    def hit(self, origin: Array, rays: Array) -> Array:
        """See `Shape.hit`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.float32(self.level - origin[1]) / rays[1]
        return np.where((t >= NEAR) & (t <= FAR), t, MISS)

    def surface(self, points: Array) -> tuple[Array, Array]:
        """See `Shape.surface`."""
        return np.broadcast_to(vector(0, self.facing, 0)[:, None], points.shape), points[::2]

    def bounds(self) -> None:
        """It has no end."""


@dataclass(frozen=True)
class Terrain:
    """Rolling ground: the sum of waves (height in metres, wave number along x and along z, phase)."""

    waves: Sequence[tuple[float, float, float, float]]
    strides: int = 40

    def level(self, x: Array, z: Array) -> Array:
        """Height of the ground at (x, z)."""
        level = np.zeros_like(x)
        for height, kx, kz, phase in self.waves:
            level += np.float32(height) * np.sin(np.float32(kx) * x + np.float32(kz) * z + np.float32(phase))
        return level

    def above(self, origin: Array, rays: Array, t: Array) -> Array:
        """How far above the ground each ray is at `t`."""
        x, y, z = rays
        return origin[1] + t * y - self.level(origin[0] + t * x, origin[2] + t * z)

    def hit(self, origin: Array, rays: Array) -> Array:
        """See `Shape.hit`. Strides grow with the distance; a crossing is then closed in on."""
        shape, flat = rays.shape[1:], rays.reshape(3, -1)
        best = np.full(flat.shape[1], MISS, np.float32)
        # Ground lies between the deepest trough and the highest crest, so only that part of a ray is walked.
        crest = np.float32(sum(abs(wave[0]) for wave in self.waves))
        with np.errstate(divide="ignore"):
            highest, lowest = (crest - origin[1]) / flat[1], (-crest - origin[1]) / flat[1]
        start, stop = np.clip(np.minimum(highest, lowest), NEAR, FAR), np.clip(np.maximum(highest, lowest), NEAR, FAR)
        walked = np.flatnonzero(start < stop)
        rays, t = flat[:, walked], start[walked]
        stride = (stop[walked] / t) ** np.float32(1 / self.strides)
        gap = self.above(origin, rays, t)
        brackets = np.full((4, walked.size), np.nan, np.float32)
        searching = gap >= 0
        for _ in range(self.strides):
            after = t * stride
            gap_after = self.above(origin, rays, after)
            landed = searching & (gap_after < 0)
            for kept, value in zip(brackets, (t, after, gap, gap_after), strict=True):
                np.copyto(kept, value, where=landed)
            searching &= ~landed
            t, gap = after, gap_after
        found = np.flatnonzero(~np.isnan(brackets[0]))
        best[walked[found]] = self.close_in(origin, rays[:, found], *brackets[:, found])
        return best.reshape(shape)

    def close_in(self, origin: Array, rays: Array, low: Array, high: Array, gap_low: Array, gap_high: Array) -> Array:
        """The crossing between two distances, by false position with the stuck end's gap halved (Illinois)."""
        for _ in range(7):
            t = low + (high - low) * gap_low / (gap_low - gap_high)
            gap = self.above(origin, rays, t)
            under = gap < 0
            gap_low, gap_high = np.where(under, gap_low / 2, gap), np.where(under, gap, gap_high / 2)
            low, high = np.where(under, low, t), np.where(under, t, high)
        return t

    def surface(self, points: Array) -> tuple[Array, Array]:
        """See `Shape.surface`."""
        x, _, z = points
        slope = np.zeros((2, x.size), np.float32)
        for height, kx, kz, phase in self.waves:
            rise = np.float32(height) * np.cos(np.float32(kx) * x + np.float32(kz) * z + np.float32(phase))
            slope += rise * np.array([[kx], [kz]], np.float32)
        normals = np.stack([-slope[0], np.ones_like(x), -slope[1]])
        return normals / np.sqrt(dot(normals, normals)), points[::2]

    def bounds(self) -> None:
        """It has no end."""
