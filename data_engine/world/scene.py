"""What a scene is made of, and the builder that layouts place things with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from data_engine.world.appearance import Appearance
from data_engine.world.camera import Camera
from data_engine.world.materials import Material
from data_engine.world.shapes import Array, Box, Ellipsoid, Frustum, Shape, turn, vector

CLASSES = (
    "sky",
    "floor",
    "wall",
    "ceiling",
    "door",
    "window",
    "picture",
    "table",
    "seat",
    "cabinet",
    "bed",
    "lamp",
    "plant",
    "carton",
    "ball",
    "can",
    "cone",
    "person",
    "road",
    "pavement",
    "building",
    "car",
    "pole",
    "tree",
    "ground",
    "rock",
    "hill",
    "fence",
)
"""Names of the class ids in `Rendering.classes`, in order."""

CLASS_ID = {name: number for number, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Part:
    """One shape of the scene, with its class id and the number of its material."""

    shape: Shape
    class_id: int
    material: int


@dataclass(frozen=True)
class Footprint:
    """Where a thing stands: it darkens the ground there. In metres."""

    x: float
    y: float
    z: float
    radius: float
    height: float


@dataclass(frozen=True)
class Lamp:
    """A light at `position` (3,); its light falls to half over `reach` metres."""

    position: Array
    reach: float


@dataclass(frozen=True)
class Place:
    """Where a thing is put: its foot, and its turn about the vertical axis in radians."""

    x: float
    z: float
    y: float = 0.0
    yaw: float = 0.0


@dataclass
class Scene:
    """All that is drawn; `usual_distance` in metres tells the haze how large the scene is."""

    camera: Camera
    usual_distance: float
    parts: list[Part] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)


class Builder:
    """Adds parts to a scene in a thing's own axes, with materials of the appearance.

    Attributes:
        rng: source of every choice.
        look: the appearance.
        scene: what has been built.
    """

    def __init__(self, scene: Scene, look: Appearance, rng: np.random.Generator) -> None:
        self.scene, self.look, self.rng = scene, look, rng

    def material(self, role: str, *, glow: float = 0.0) -> int:
        """A fresh material; parts that share its number look alike."""
        self.scene.materials.append(self.look.palette.draw(role, self.rng, glow=glow))
        return len(self.scene.materials) - 1

    def add(self, shape: Shape, name: str, material: int) -> None:
        """Add a part of the class `name`."""
        self.scene.parts.append(Part(shape=shape, class_id=CLASS_ID[name], material=material))

    def point(self, at: Place, offset: tuple[float, float, float]) -> Array:
        """A point given in the axes of a thing that stands at `at`."""
        return turn(vector(*offset), at.yaw) + vector(at.x, at.y, at.z)

    def box(
        self, at: Place, offset: tuple[float, float, float], size: tuple[float, float, float], name: str, material: int
    ) -> None:
        """A box of `size` whose lower middle is at `offset` from the foot of the thing."""
        x, y, z = offset
        centre = self.point(at, (x, y + size[1] / 2, z))
        self.add(Box(centre=centre, half=vector(*size) / 2, yaw=at.yaw), name, material)

    def ball(
        self, at: Place, offset: tuple[float, float, float], radii: tuple[float, float, float], name: str, material: int
    ) -> None:
        """An ellipsoid around `offset` from the foot of the thing."""
        self.add(Ellipsoid(centre=self.point(at, offset), radii=vector(*radii), yaw=at.yaw), name, material)

    def column(
        self,
        at: Place,
        offset: tuple[float, float, float],
        height: float,
        radii: tuple[float, float],
        name: str,
        material: int,
    ) -> None:
        """An upright cylinder or cone with the radii (bottom, top), its foot at `offset`."""
        shape = Frustum(base=self.point(at, offset), height=height, bottom=radii[0], top=radii[1])
        self.add(shape, name, material)

    def stands(self, at: Place, radius: float, height: float) -> None:
        """Note that a thing stands here, for its shadow and for what is placed later."""
        self.scene.footprints.append(Footprint(x=at.x, y=at.y, z=at.z, radius=radius, height=height))

    def free(self, x: float, z: float, radius: float, *, from_camera: float = 0.5) -> bool:
        """Whether a thing of this radius fits here, clear of the others and of the camera."""
        eye = self.scene.camera.position
        if math.hypot(x - eye[0], z - eye[2]) < radius + from_camera:
            return False
        return all(math.hypot(x - f.x, z - f.z) > radius + 0.8 * f.radius for f in self.scene.footprints)

    def count(self, low: int, high: int) -> int:
        """How many loose things, scaled by the clutter of the appearance."""
        return round(self.rng.integers(low, high + 1) * self.rng.uniform(*self.look.clutter))

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`."""
        return float(self.rng.uniform(low, high))
