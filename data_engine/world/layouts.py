"""Where things stand: one function a geometry. It sets the camera, the surroundings and what is in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from data_engine.world import things
from data_engine.world.appearance import Appearance
from data_engine.world.camera import stand
from data_engine.world.scene import Builder, Lamp, Place, Scene
from data_engine.world.shapes import Plane, Terrain, vector
from data_engine.world.things import Thing, any_yaw

Layout = Callable[[Appearance, np.random.Generator], Scene]


def open_scene(
    look: Appearance,
    rng: np.random.Generator,
    eye: tuple[float, float, float],
    *,
    yaw: tuple[float, float],
    pitch: tuple[float, float],
    usual_distance: float,
) -> Builder:
    """An empty scene with its camera at `eye`, angles in degrees."""
    camera = stand(
        *eye,
        yaw=rng.uniform(*yaw),
        pitch=rng.uniform(*pitch),
        roll=rng.uniform(-look.roll, look.roll),
        view=rng.uniform(*look.view),
    )
    return Builder(Scene(camera=camera, usual_distance=usual_distance), look, rng)


def scatter(
    b: Builder,
    choices: tuple[Thing, ...],
    count: int,
    x: tuple[float, float],
    z: tuple[float, float],
    *,
    clear: float,
    from_camera: float = 0.5,
    y: float = 0.0,
    **more: float,
) -> None:
    """Put up to `count` things where `clear` metres around them are free."""
    for _ in range(count):
        thing = choices[int(b.rng.integers(len(choices)))]
        at = Place(b.uniform(*x), b.uniform(*z), y, any_yaw(b))
        if b.free(at.x, at.z, clear, from_camera=from_camera):
            thing(b, at, **more)


def room(look: Appearance, rng: np.random.Generator) -> Scene:
    """A furnished room, 3 to 8 m long, seen from somewhere inside in any direction."""
    width, deep, high = rng.uniform(3.2, 7), rng.uniform(3.6, 8), rng.uniform(2.3, 3.4)
    eye = (
        rng.uniform(-width / 2 + 0.9, width / 2 - 0.9),
        rng.uniform(0.6, 2.0),
        rng.uniform(-deep / 2 + 0.9, deep / 2 - 0.9),
    )
    # Towards the middle, give or take, so that few pictures show nothing but a wall.
    yaw = math.degrees(math.atan2(-eye[0], -eye[2]))
    b = open_scene(look, rng, eye, yaw=(yaw - 65, yaw + 65), pitch=(-38, 12), usual_distance=4.0)
    shell(b, width, deep, high)
    sides = [(0.0, 0.0, deep / 2, width), (math.pi, 0.0, -deep / 2, width)]
    sides += [(math.pi / 2, width / 2, 0.0, deep), (-math.pi / 2, -width / 2, 0.0, deep)]
    for side in sides:
        along_wall(b, *side, high)
    scatter(
        b,
        (things.table, things.chair),
        b.count(1, 4),
        (-width / 3, width / 3),
        (-deep / 3, deep / 3),
        clear=0.6,
        from_camera=0.9,
    )
    inner = (-width / 2 + 0.4, width / 2 - 0.4), (-deep / 2 + 0.4, deep / 2 - 0.4)
    scatter(b, things.SMALL, b.count(2, 6), *inner, clear=0.25, from_camera=0.8)
    b.scene.lamps.append(Lamp(position=vector(rng.uniform(-1, 1), high - 0.4, rng.uniform(-1, 1)), reach=3.0))
    return b.scene


def shell(b: Builder, width: float, deep: float, high: float) -> None:
    """Floor, ceiling, four walls and a skirting board."""
    b.add(Plane(0.0), "floor", b.material("floor"))
    b.add(Plane(high, facing=-1), "ceiling", b.material("ceiling"))
    wall, skirting = b.material("wall"), b.material("wood")
    for x, z, along_x, along_z in (
        (0, deep / 2, width, 0),
        (0, -deep / 2, width, 0),
        (width / 2, 0, 0, deep),
        (-width / 2, 0, 0, deep),
    ):
        thick = 0.2
        at = Place(x + math.copysign(thick / 2, x) * (along_x == 0), z + math.copysign(thick / 2, z) * (along_z == 0))
        size = (along_x or thick, high, along_z or thick)
        b.box(at, (0, 0, 0), size, "wall", wall)
        b.box(at, (0, 0, 0), (along_x or thick + 0.03, 0.1, along_z or thick + 0.03), "wall", skirting)


def along_wall(b: Builder, yaw: float, x: float, z: float, length: float, high: float) -> None:
    """What hangs on one wall of a room and what stands along it; `yaw` turns +z to face the wall."""
    wall = Place(x, z, 0.0, yaw)
    spot = -length / 2
    while spot < length / 2 - 0.8:
        step = b.uniform(0.9, 1.9)
        middle, kind = spot + step / 2, b.rng.random()
        if kind < 0.12:
            b.box(wall, (middle, 0, 0), (0.9, 2.05, 0.06), "door", b.material("wood"))
        elif kind < 0.3:
            glow = 0.8 if b.look.light.stars == 0 else 0.0
            b.box(wall, (middle, 0.9, 0), (step * 0.7, high - 1.3, 0.05), "window", b.material("pane", glow=glow))
        elif kind < 0.45:
            b.box(
                wall,
                (middle, b.uniform(1.2, 1.5), 0),
                (step * 0.5, b.uniform(0.3, 0.7), 0.05),
                "picture",
                b.material("print"),
            )
        if kind > 0.25 and middle + 0.9 < length / 2:
            stand_at_wall(b, wall, middle)
        spot += step


def stand_at_wall(b: Builder, wall: Place, middle: float) -> None:
    """A piece of furniture with its back to the wall, if there is room."""
    pieces: tuple[tuple[Thing, float], ...] = (
        (things.cabinet, 0.25),
        (things.cabinet, 0.25),
        (things.sofa, 0.45),
        (things.bed, 1.05),
        (things.standing_lamp, 0.3),
        (things.plant, 0.3),
        (things.table, 0.5),
    )
    thing, back = pieces[int(b.rng.integers(len(pieces)))]
    x, _, z = b.point(wall, (middle, 0, -back))
    if b.free(float(x), float(z), 0.6, from_camera=1.0):
        thing(b, Place(float(x), float(z), 0.0, wall.yaw))


def corridor(look: Appearance, rng: np.random.Generator) -> Scene:
    """A long passage with doors and pillars on both sides."""
    width, long, high = rng.uniform(2.0, 5.0), rng.uniform(8, 40), rng.uniform(2.3, 4.0)
    eye = rng.uniform(-width / 2 + 0.8, width / 2 - 0.8), rng.uniform(0.8, 2.2), 0.0
    b = open_scene(look, rng, eye, yaw=(-35, 35), pitch=(-25, 18), usual_distance=8.0)
    b.add(Plane(0.0), "floor", b.material("floor"))
    b.add(Plane(high, facing=-1), "ceiling", b.material("ceiling"))
    left, right = b.material("wall"), b.material("wall")
    b.box(Place(0, long), (0, 0, 0), (width + 1, high, 0.2), "wall", b.material("wall"))
    door, pillar = b.material("wood"), b.material("stone") if rng.random() < 0.4 else None
    for side, wall in ((-1, left), (1, right)):
        edge = side * width / 2
        b.box(Place(edge + side * 0.1, long / 2 - 1), (0, 0, 0), (0.2, high, long + 4), "wall", wall)
        z = b.uniform(0.5, 3)
        while z < long - 1:
            kind = rng.random()
            if kind < 0.5:
                b.box(Place(edge, z), (0, 0, 0), (0.08, 2.1, 0.95), "door", door)
            elif kind < 0.75:
                b.box(Place(edge, z), (0, 1.2, 0), (0.06, 0.6, 0.8), "picture", b.material("print"))
            if pillar is not None:
                b.box(Place(edge - side * 0.1, z + 1.2), (0, 0, 0), (0.3, high, 0.35), "wall", pillar)
            z += b.uniform(1.8, 3.2)
    lights(b, high, long)
    inside = (-width / 2 + 0.35, width / 2 - 0.35), (1.2, min(long, 16.0))
    scatter(b, things.SMALL, b.count(2, 6), *inside, clear=0.25)
    scatter(
        b, (things.person, things.chair, things.plant, things.can), b.count(1, 4), *inside, clear=0.3, from_camera=1.2
    )
    return b.scene


def lights(b: Builder, high: float, long: float) -> None:
    """A row of ceiling lamps, of which the first few throw light."""
    shade, step = b.material("ceiling", glow=0.8), b.uniform(3, 5)
    for number in range(int(long / step)):
        z = 1.5 + number * step
        b.box(Place(0, z), (0, high - 0.06, 0), (0.5, 0.06, 0.5), "lamp", shade)
        if number < 3:
            b.scene.lamps.append(Lamp(position=vector(0, high - 0.4, z), reach=3.0))


def street(look: Appearance, rng: np.random.Generator) -> Scene:
    """A road between two rows of buildings, with cars, people, trees and lamps."""
    road = rng.uniform(5, 11)
    walk = rng.uniform(1.5, 4)
    eye = rng.uniform(-road / 2, road / 2), rng.uniform(1.5, 4.5), 0.0
    b = open_scene(look, rng, eye, yaw=(-40, 40), pitch=(-18, 14), usual_distance=25.0)
    b.add(Plane(0.0), "road", b.material("asphalt"))
    paving, kerb = b.material("paving"), road / 2 + walk / 2
    line = b.material("ceiling")
    for number in range(10):
        b.box(Place(0, 1.5 + 6 * number), (0, 0, 0), (0.15, 0.01, 3.0), "road", line)
    for side in (-1, 1):
        b.box(Place(side * kerb, 90), (0, 0, 0), (walk, 0.13, 200), "pavement", paving)
        row_of_buildings(b, side, road / 2 + walk)
        furniture: tuple[Thing, ...] = (things.tree, things.street_lamp, things.street_lamp)
        for z in np.arange(b.uniform(6, 11), 60, b.uniform(8, 14)):
            thing = furniture[int(rng.integers(len(furniture)))]
            thing(b, Place(side * (road / 2 + 0.4), float(z), 0.13, math.pi * (side > 0)))
        for z in np.arange(b.uniform(-1, 8), 50, 6.5):
            if rng.random() < 0.4 and b.free(side * (road / 2 - 1.1), float(z), 1.3, from_camera=3.0):
                things.car(b, Place(side * (road / 2 - 1.1), float(z), 0.0, math.pi * (rng.random() < 0.5)))
        scatter(
            b,
            (things.person, things.person, things.can),
            b.count(1, 3),
            (side * kerb - walk / 3, side * kerb + walk / 3),
            (3, 25),
            clear=0.3,
            from_camera=3.0,
            y=0.13,
        )
    scatter(
        b,
        (things.cone, things.person, things.carton),
        b.count(0, 4),
        (-road / 3, road / 3),
        (3, 18),
        clear=0.4,
        from_camera=3.5,
    )
    return b.scene


def row_of_buildings(b: Builder, side: int, edge: float) -> None:
    """Houses wall to wall with a gap now and then."""
    z = -12.0
    while z < 110:
        front, setback = b.uniform(7, 18), b.uniform(0, 1.5)
        if b.rng.random() < 0.88:
            deep, high = 10.0, b.uniform(4, 22)
            at = Place(side * (edge + setback + deep / 2), z + front / 2)
            role = "facade" if b.rng.random() < 0.8 else "masonry"
            b.box(at, (0, 0, 0), (deep, high, front), "building", b.material(role, glow=0.5 * b.look.light.stars))
            door = Place(side * (edge + setback), z + b.uniform(1, front - 1))
            b.box(door, (0, 0, 0), (0.15, 2.3, 1.1), "door", b.material("wood"))
        z += front + (b.uniform(2, 8) if b.rng.random() < 0.2 else 0.0)


def pile(look: Appearance, rng: np.random.Generator) -> Scene:
    """Small things on a table or on the ground, seen from close by, a wall behind them."""
    height, away = rng.uniform(0.35, 1.5), rng.uniform(0.8, 2.2)
    pitch = -math.degrees(math.atan2(height, away))
    on_table = rng.random() < 0.5
    level = 0.75 if on_table else 0.0
    eye = 0.0, level + height, -away
    b = open_scene(look, rng, eye, yaw=(-15, 15), pitch=(pitch - 8, pitch + 16), usual_distance=2.0)
    b.add(Plane(0.0), "floor", b.material("floor"))
    yaw = rng.uniform(-0.6, 0.6)
    if on_table:
        size = rng.uniform(1.2, 2.2), rng.uniform(1.0, 1.6)
        b.box(Place(0, 0, 0, yaw), (0, level - 0.06, 0), (size[0], 0.06, size[1]), "table", b.material("wood"))
        reach = min(size) / 2 - 0.1
    else:
        reach = 1.3
    behind = rng.uniform(1.2, 5.0)
    wall = b.material("wall")
    b.box(Place(math.sin(yaw) * behind, math.cos(yaw) * behind, 0, yaw), (0, 0, 0), (30, 6, 0.2), "wall", wall)
    if rng.random() < 0.5:
        side = rng.choice([-1.0, 1.0]) * rng.uniform(1.8, 4.0)
        b.box(Place(side * math.cos(yaw), -side * math.sin(yaw), 0, yaw), (0, 0, 0), (0.2, 6, 30), "wall", wall)
    scale = rng.uniform(0.4, 0.9)
    scatter(
        b,
        things.SMALL,
        b.count(10, 20),
        (-reach, reach),
        (-reach, reach),
        clear=0.16 * scale,
        from_camera=0.45,
        y=level,
        scale=scale,
    )
    b.scene.lamps.append(
        Lamp(position=vector(rng.uniform(-1.5, 1.5), level + rng.uniform(1.0, 2.0), rng.uniform(-1.5, 1)), reach=1.8)
    )
    return b.scene


def land(look: Appearance, rng: np.random.Generator) -> Scene:
    """Rolling ground with trees, rocks and a few houses, hills behind."""
    steep = rng.uniform(0.1, 1.0)
    waves = tuple(
        (steep * float(rng.uniform(0.3, 1.0)) * length / 22, *(2 * math.pi / length * way), float(rng.uniform(0, 6.3)))
        for length, angle in zip((55.0, 31.0, 17.0), rng.uniform(0, 6.3, 3), strict=True)
        for way in [np.array([math.cos(angle), math.sin(angle)])]
    )
    ground = Terrain(tuple((float(h), float(x), float(z), p) for h, x, z, p in waves))

    def level(x: float, z: float) -> float:
        return float(ground.level(np.array([x], np.float32), np.array([z], np.float32))[0])

    eye = 0.0, level(0, 0) + rng.uniform(2.0, 8.0), 0.0
    b = open_scene(look, rng, eye, yaw=(0, 0), pitch=(-25, 6), usual_distance=25.0)
    b.add(ground, "ground", b.material("grass" if rng.random() < 0.6 else "soil"))
    for _ in range(int(rng.integers(0, 4))):
        size, x, z = b.uniform(15, 45), b.uniform(-150, 150), b.uniform(90, 220)
        b.ball(Place(x, z, -0.15 * size), (0, 0, 0), (2 * size, size, 1.4 * size), "hill", b.material("grass"))
    choices: tuple[Thing, ...] = (things.tree, things.tree, things.bush, things.rock, things.rock)
    for near, far, count in ((6, 14, b.count(2, 5)), (14, 35, b.count(4, 10)), (35, 90, b.count(4, 9))):
        for _ in range(count):
            z = b.uniform(near, far)
            x = b.uniform(-0.8, 0.8) * z
            if b.free(x, z, 1.0, from_camera=4.0):
                choices[int(rng.integers(len(choices)))](b, Place(x, z, level(x, z), any_yaw(b)))
    if rng.random() < 0.5:
        z = b.uniform(18, 50)
        x = b.uniform(-0.5, 0.5) * z
        if b.free(x, z, 5.0):
            things.house(b, Place(x, z, level(x, z), any_yaw(b)))
    if rng.random() < 0.35:
        fence(b, level)
    return b.scene


def fence(b: Builder, level: Callable[[float, float], float]) -> None:
    """Posts with two rails across the land."""
    wood, z, slope = b.material("wood"), b.uniform(7, 18), b.uniform(-0.4, 0.4)
    for x in np.arange(-16, 16, 2.0):
        at = Place(float(x), z + slope * float(x), level(float(x), z + slope * float(x)), -math.atan(slope))
        b.box(at, (0, -0.3, 0), (0.12, 1.4, 0.12), "fence", wood)
        for rail in (0.45, 0.85):
            b.box(at, (1.0, rail, 0), (2.1, 0.1, 0.05), "fence", wood)


LAYOUTS: dict[str, Layout] = {"room": room, "corridor": corridor, "street": street, "pile": pile, "land": land}
