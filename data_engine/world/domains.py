"""A domain is a geometry and an appearance: `room-night`. One call draws one scene of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_engine.world.appearance import APPEARANCES
from data_engine.world.layouts import LAYOUTS
from data_engine.world.picture import photograph
from data_engine.world.scene import CLASS_ID
from data_engine.world.shapes import vector
from depth_anything_train.runtime import UserError, keyed_seed

DOMAINS = tuple(f"{geometry}-{appearance}" for geometry in LAYOUTS for appearance in APPEARANCES)
"""Every domain there is."""

FLAT = ("room", "corridor", "street")
"""Geometries in which a camera may stand at any height that is lower than a room."""


@dataclass(frozen=True)
class Rendering:
    """A drawn scene.

    Attributes:
        image: RGB bytes (H, W, 3).
        depth_m: (H, W) depth along the optical axis in metres of the surface at the pixel's centre; inf on the sky.
        sky: (H, W), True where there is only sky.
        classes: (H, W) numbers of `CLASSES`.
        focal: focal length in pixels; the optical axis goes through the middle of the picture.
    """

    image: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    sky: NDArray[np.bool_]
    classes: NDArray[np.uint8]
    focal: float


def select_domains(names: Sequence[str]) -> list[str]:
    """Names of domains with `*` for any geometry or appearance, such as `*-day`, written out in the order of `DOMAINS`.

    Raises:
        UserError: a name that is no domain.
    """
    chosen: set[str] = set()
    for name in names:
        geometry, _, appearance = name.partition("-")
        found = {d for d in DOMAINS if geometry in ("*", d.split("-")[0]) and appearance in ("*", d.split("-")[1])}
        if not found:
            raise UserError(
                f"Expected domains such as room-day or *-night, but got {name!r}; geometries are {', '.join(LAYOUTS)}, "
                f"appearances are {', '.join(APPEARANCES)}."
            )
        chosen |= found
    return [domain for domain in DOMAINS if domain in chosen]


def render(
    domain: str,
    *,
    seed: int,
    index: int,
    height: int = 168,
    width: int = 224,
    eye_m: float | None = None,
    view_deg: float | None = None,
) -> Rendering:
    """Draw scene `index` of a domain. A pure function: the same arguments give the same pixels.

    With one height of the camera and one angle of view a picture shows how far things are in metres: where they stand
    on the ground says it. `eye_m` and `view_deg` set them; None draws them as the domain does.

    Raises:
        UserError: an unknown domain.
    """
    if domain not in DOMAINS:
        raise UserError(
            f"Expected a domain of the procedural world, but got {domain!r}; known are {', '.join(DOMAINS)}."
        )
    geometry, _, appearance = domain.partition("-")
    assert eye_m is None or geometry in FLAT, f"{domain} has no height above a flat floor"
    look = APPEARANCES[appearance]
    if view_deg is not None:
        look = replace(look, view=(view_deg, view_deg))
    rng = np.random.default_rng(keyed_seed(seed, "world", domain, index))
    scene = LAYOUTS[geometry](look, rng)
    if eye_m is not None:
        x, _, z = scene.camera.position
        scene.camera = replace(scene.camera, position=vector(x, eye_m, z))
    image, depth_m, classes = photograph(scene, look, rng, height, width)
    focal = scene.camera.focal(width)
    return Rendering(image=image, depth_m=depth_m, sky=classes == CLASS_ID["sky"], classes=classes, focal=focal)
