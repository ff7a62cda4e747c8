"""Things of roughly their real size: each function builds one at a place and notes where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable

from data_engine.world.scene import Builder, Lamp, Place

Thing = Callable[[Builder, Place], None]


def table(b: Builder, at: Place) -> None:
    """A top on four legs."""
    width, deep, height = b.uniform(0.8, 1.8), b.uniform(0.6, 1.0), b.uniform(0.65, 0.8)
    wood = b.material("wood")
    b.box(at, (0, height - 0.05, 0), (width, 0.05, deep), "table", wood)
    for x in (-1, 1):
        for z in (-1, 1):
            b.box(at, (x * (width / 2 - 0.06), 0, z * (deep / 2 - 0.06)), (0.07, height - 0.05, 0.07), "table", wood)
    b.stands(at, max(width, deep) / 2, 0.4)


def chair(b: Builder, at: Place) -> None:
    """A seat with a back on four legs."""
    seat, wood = b.material("cloth"), b.material("wood")
    b.box(at, (0, 0.42, 0), (0.44, 0.06, 0.44), "seat", seat)
    b.box(at, (0, 0.48, 0.2), (0.42, b.uniform(0.35, 0.6), 0.04), "seat", wood)
    for x in (-0.19, 0.19):
        for z in (-0.19, 0.19):
            b.box(at, (x, 0, z), (0.04, 0.42, 0.04), "seat", wood)
    b.stands(at, 0.3, 0.5)


def sofa(b: Builder, at: Place) -> None:
    """A broad seat with back and arms."""
    width, cloth = b.uniform(1.3, 2.2), b.material("cloth")
    b.box(at, (0, 0, 0), (width, 0.42, 0.85), "seat", cloth)
    b.box(at, (0, 0.42, 0.33), (width, b.uniform(0.3, 0.45), 0.2), "seat", cloth)
    for x in (-1, 1):
        b.box(at, (x * (width / 2 - 0.09), 0.42, -0.05), (0.18, 0.18, 0.75), "seat", cloth)
    b.stands(at, width / 2, 0.6)


def bed(b: Builder, at: Place) -> None:
    """A mattress with a headboard and pillow."""
    width, wood = b.uniform(0.9, 1.8), b.material("wood")
    b.box(at, (0, 0, 0), (width, 0.25, 2.0), "bed", wood)
    b.box(at, (0, 0.25, -0.02), (width - 0.06, 0.22, 1.94), "bed", b.material("cloth"))
    b.box(at, (0, 0, 1.0), (width, b.uniform(0.8, 1.1), 0.06), "bed", wood)
    b.box(at, (0, 0.47, 0.75), (width * 0.7, 0.1, 0.35), "bed", b.material("cloth"))
    b.stands(at, 1.0, 0.5)


def cabinet(b: Builder, at: Place) -> None:
    """A chest, wardrobe or shelf."""
    width, height, wood = b.uniform(0.6, 1.6), b.uniform(0.7, 2.1), b.material("wood")
    b.box(at, (0, 0, 0), (width, height, 0.45), "cabinet", wood)
    front, rows = b.material("wood"), int(b.rng.integers(2, 5))
    for row in range(rows):
        b.box(at, (0, (row + 0.1) * height / rows, -0.235), (width * 0.9, 0.8 * height / rows, 0.02), "cabinet", front)
    b.stands(at, width / 2, height)


def standing_lamp(b: Builder, at: Place) -> None:
    """A pole with a shining shade."""
    height = b.uniform(1.2, 1.8)
    b.column(at, (0, 0, 0), height, (0.02, 0.02), "lamp", b.material("metal"))
    b.column(at, (0, 0, 0), 0.03, (0.15, 0.15), "lamp", b.material("metal"))
    b.column(at, (0, height - 0.15, 0), 0.28, (0.2, 0.13), "lamp", b.material("ceiling", glow=0.7))
    b.scene.lamps.append(Lamp(position=b.point(at, (0, height + 0.25, 0)), reach=2.5))
    b.stands(at, 0.2, 0.5)


def plant(b: Builder, at: Place) -> None:
    """A pot with leaves."""
    size, leaf = b.uniform(0.7, 1.4), b.material("leaf")
    b.column(at, (0, 0, 0), 0.3 * size, (0.12 * size, 0.17 * size), "plant", b.material("card"))
    for _ in range(3):
        x, y, z = b.uniform(-0.1, 0.1), b.uniform(0.45, 0.8), b.uniform(-0.1, 0.1)
        b.ball(at, (x * size, y * size, z * size), (0.2 * size, 0.22 * size, 0.2 * size), "plant", leaf)
    b.stands(at, 0.25 * size, 0.8 * size)


def carton(b: Builder, at: Place, scale: float = 1.0) -> None:
    """A cardboard box."""
    width, height, deep = (scale * b.uniform(0.25, 0.6) for _ in range(3))
    b.box(at, (0, 0, 0), (width, height, deep), "carton", b.material("card"))
    b.stands(at, max(width, deep) * 0.6, height)


def ball(b: Builder, at: Place, scale: float = 1.0) -> None:
    """A ball to play with."""
    radius = scale * b.uniform(0.1, 0.2)
    b.ball(at, (0, radius, 0), (radius, radius, radius), "ball", b.material("plastic"))
    b.stands(at, radius, 2 * radius)


def can(b: Builder, at: Place, scale: float = 1.0) -> None:
    """A bin, bucket or tin."""
    radius, height = scale * b.uniform(0.1, 0.18), scale * b.uniform(0.25, 0.5)
    b.column(at, (0, 0, 0), height, (radius, radius * b.uniform(0.95, 1.15)), "can", b.material("plastic"))
    b.stands(at, radius, height)


def cone(b: Builder, at: Place, scale: float = 1.0) -> None:
    """A traffic cone or toy cone."""
    radius, height = scale * b.uniform(0.12, 0.2), scale * b.uniform(0.4, 0.65)
    b.column(at, (0, 0, 0), height, (radius, 0.02 * scale), "cone", b.material("plastic"))
    b.stands(at, radius, height * 0.7)


def person(b: Builder, at: Place) -> None:
    """Legs, body, arms and head, 1.5 to 1.9 m tall."""
    tall = b.uniform(1.5, 1.9)
    legs, body, skin = b.material("cloth"), b.material("cloth"), b.material("skin")
    for x in (-0.06, 0.06):
        b.column(at, (x * tall, 0, 0), 0.48 * tall, (0.04 * tall, 0.055 * tall), "person", legs)
    b.ball(at, (0, 0.64 * tall, 0), (0.13 * tall, 0.21 * tall, 0.08 * tall), "person", body)
    b.ball(at, (0, 0.92 * tall, 0), (0.05 * tall, 0.075 * tall, 0.06 * tall), "person", skin)
    b.stands(at, 0.25, tall)


def car(b: Builder, at: Place) -> None:
    """A body, a cabin and four wheels; it faces along its own z axis."""
    length, paint, glass = b.uniform(3.6, 4.8), b.material("paint"), b.material("pane")
    b.box(at, (0, 0.3, 0), (1.75, 0.6, length), "car", paint)
    b.box(at, (0, 0.9, -0.1 * length), (1.55, 0.5, length * 0.5), "car", glass)
    b.box(at, (0, 1.4, -0.1 * length), (1.55, 0.06, length * 0.48), "car", paint)
    wheel = b.material("rubber")
    for x in (-0.8, 0.8):
        for z in (-0.32, 0.32):
            b.ball(at, (x, 0.32, z * length), (0.12, 0.32, 0.32), "car", wheel)
    b.stands(at, 1.5, 1.3)


def street_lamp(b: Builder, at: Place) -> None:
    """A tall pole with an arm over the road."""
    height, metal = b.uniform(4.5, 6.5), b.material("metal")
    b.column(at, (0, 0, 0), height, (0.09, 0.06), "pole", metal)
    b.box(at, (0.5, height, 0), (1.1, 0.08, 0.1), "pole", metal)
    b.box(at, (0.9, height - 0.12, 0), (0.5, 0.1, 0.2), "pole", b.material("ceiling", glow=1.0))
    b.scene.lamps.append(Lamp(position=b.point(at, (0.9, height - 0.2, 0)), reach=6.0))
    b.stands(at, 0.15, 1.0)


def tree(b: Builder, at: Place) -> None:
    """A trunk under a round or pointed crown."""
    height, leaf = b.uniform(3.0, 8.0), b.material("leaf")
    b.column(at, (0, -0.3, 0), 0.5 * height, (0.03 * height, 0.02 * height), "tree", b.material("bark"))
    if b.rng.random() < 0.4:
        for level, radius in ((0.25, 0.22), (0.5, 0.16)):
            b.column(at, (0, level * height, 0), 0.5 * height, (radius * height, 0.01), "tree", leaf)
    else:
        for _ in range(3):
            x, z = b.uniform(-0.1, 0.1) * height, b.uniform(-0.1, 0.1) * height
            size = b.uniform(0.17, 0.24) * height
            b.ball(at, (x, b.uniform(0.55, 0.75) * height, z), (size, size * 0.9, size), "tree", leaf)
    b.stands(at, 0.14 * height, height)


def bush(b: Builder, at: Place) -> None:
    """A low mass of leaves."""
    size, leaf = b.uniform(0.4, 1.0), b.material("leaf")
    for _ in range(2):
        x, z = b.uniform(-0.4, 0.4) * size, b.uniform(-0.4, 0.4) * size
        b.ball(at, (x, 0.5 * size, z), (size, 0.7 * size, size), "plant", leaf)
    b.stands(at, size, size)


def rock(b: Builder, at: Place) -> None:
    """A boulder, half in the ground."""
    size = b.uniform(0.3, 1.6)
    radii = (size, size * b.uniform(0.5, 0.9), size * b.uniform(0.6, 1.0))
    b.ball(at, (0, 0.15 * size, 0), radii, "rock", b.material("stone"))
    b.stands(at, size, 0.7 * size)


def house(b: Builder, at: Place) -> None:
    """A small house with a roof."""
    width, deep, height = b.uniform(5, 9), b.uniform(5, 8), b.uniform(2.6, 4.5)
    b.box(at, (0, -0.5, 0), (width, height + 0.5, deep), "building", b.material("facade"))
    roof = b.material("masonry")
    for level, share in ((0.0, 1.1), (0.5, 0.8), (1.0, 0.5)):
        b.box(at, (0, height + level, 0), (width * share, 0.5, deep * 1.1), "building", roof)
    b.stands(at, max(width, deep) / 2, height)


SMALL: tuple[Callable[..., None], ...] = (carton, ball, can, cone)
"""Loose things that take a scale."""


def any_yaw(b: Builder) -> float:
    """Any turn about the vertical axis, in radians."""
    return b.uniform(-math.pi, math.pi)
