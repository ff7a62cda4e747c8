"""The procedural world as a raw data set: scenes are drawn where other data sets are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.ingest.base import RawSample, encode_jpeg
from data_engine.ingest.raw_files import pinhole
from data_engine.world import CLASSES, FLAT, Rendering, render, select_domains
from depth_anything_train.data import schema
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.ops.png import encode_png
from depth_anything_train.runtime import UserError

SMALLEST_SIDE = 28


@dataclass(frozen=True)
class Item:
    """Scene `index` of a domain."""

    domain: str
    index: int


class Procedural:
    """`count` scenes of the given domains in turn: item i is of domain i modulo their number.

    Sets drawn with different seeds share no scene: give training and test sets different seeds.

    Args:
        domains: names such as `room-day`; `*` stands for any geometry or appearance (`*-night`).
        count: number of scenes in all.
        seed: which scenes.
        height, width: size of the pictures.
        eye_m: height of the camera in metres in rooms, corridors and streets; None: as each scene has it.
        view_deg: horizontal angle of view in degrees; None: as each scene has it.
        kind: `labelled` (image, exact disparity in 1/m with 0 on the sky, classes, json) or `images` (image only).

    Raises:
        UserError: an unknown domain or kind, no scenes, or pictures that are too small.
    """

    source = "procedural"
    licence = "Apache-2.0"

    def __init__(
        self,
        domains: Sequence[str],
        count: int,
        seed: int,
        height: int = 168,
        width: int = 224,
        eye_m: float | None = None,
        view_deg: float | None = None,
        kind: str = "labelled",
    ) -> None:
        if kind not in ("labelled", "images"):
            raise UserError(f"Expected kind=labelled or kind=images, but got {kind!r}.")
        if count is None or count < 1:
            raise UserError(f"Expected a number of scenes to draw, but got {count}; say count=200.")
        if min(height, width) < SMALLEST_SIDE:
            raise UserError(f"Expected pictures of {SMALLEST_SIDE} pixels a side or more, but got {height} x {width}.")
        if eye_m is not None and not 0.3 <= eye_m <= 2.2:
            raise UserError(f"Expected the camera between 0.3 and 2.2 m above the floor, but got eye_m={eye_m}.")
        if view_deg is not None and not 20 <= view_deg <= 120:
            raise UserError(f"Expected an angle of view between 20 and 120 degrees, but got view_deg={view_deg}.")
        if isinstance(domains, str) or not domains:
            raise UserError(f"Expected a list of domains such as [room-day,*-night], but got {domains!r}.")
        self.domains = select_domains(list(domains))
        self.camera = {name: value for name, value in (("eye_m", eye_m), ("view_deg", view_deg)) if value is not None}
        if eye_m is not None and (uneven := [d for d in self.domains if d.split("-")[0] not in FLAT]):
            raise UserError(f"Expected eye_m for domains of {', '.join(FLAT)} alone, but {uneven[0]} is among them.")
        self.kind, self.count, self.seed = kind, count, seed
        self.height, self.width = height, width

    def items(self) -> list[Item]:
        """All scenes, the domains in turn."""
        turns = len(self.domains)
        return [Item(self.domains[i % turns], i // turns) for i in range(self.count)]

    def load(self, item: Item) -> RawSample:
        """Draw one scene and encode it; the same item gives the same bytes."""
        eye_m, view_deg = self.camera.get("eye_m"), self.camera.get("view_deg")
        size = {"height": self.height, "width": self.width}
        drawn = render(item.domain, seed=self.seed, index=item.index, **size, eye_m=eye_m, view_deg=view_deg)
        members = {"jpg": encode_jpeg(drawn.image)}
        if self.kind == "labelled":
            disparity = np.divide(np.float32(1), drawn.depth_m)  # 0 on the sky, where depth is inf
            members[schema.DISPARITY_DZ16] = encode_dz16(disparity, np.ones_like(drawn.sky))
            members[schema.CLASSES] = encode_png(drawn.classes)
            members[schema.META] = json.dumps(self.meta(item, drawn), sort_keys=True).encode()
        return RawSample(key=f"{item.domain}-{item.index:06d}", members=members)

    def meta(self, item: Item, drawn: Rendering) -> dict[str, Any]:
        """What the json of a labelled sample says."""
        matrix = [[drawn.focal, 0, self.width / 2], [0, drawn.focal, self.height / 2]]
        return {
            "source": self.source,
            "kind": self.kind,
            "quantity": "disparity",
            "unit": "m",
            "scale": 1.0,
            "invalid": None,
            "camera": pinhole(matrix, first_pixel=0.5),
            "licence": self.licence,
            "domain": item.domain,
        }

    def info(self) -> dict[str, Any]:
        """What dataset.json says."""
        return {
            "classes": list(CLASSES),
            "domains": self.domains,
            "seed": self.seed,
            "height": self.height,
            "width": self.width,
            **self.camera,
        }
