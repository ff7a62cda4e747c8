"""ADE20K with the 150 classes of its scene parsing benchmark: photographs of all kinds of scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_engine.ingest.labelled import Item, find_names, pair_up
from data_engine.ingest.segmented import SegmentedSet
from depth_anything_train.data.schema import NO_CLASS

SPLITS = {"train": "training", "val": "validation"}

NAMES = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
    door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
    field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
    signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
    stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television
    receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster,
    stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket,
    waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
    bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
    pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""


class Ade20k(SegmentedSet):
    """ADE20K, release ADEChallengeData2016 of the scene parsing benchmark, http://sceneparsing.csail.mit.edu.

    root/images/training/ADE_train_00000001.jpg            20,210 images
    root/annotations/training/ADE_train_00000001.png
    root/images/validation/ADE_val_00000001.jpg            2,000 images
    root/annotations/validation/ADE_val_00000001.png

    Licence: BSD 3-Clause for the annotations, images for non-commercial research and education. A label is an 8-bit
    PNG; 0 is whatever is none of the 150 classes, which is neither trained on nor judged, and 1 to 150 are they.

    Args:
        root, count, seed: as in `PairedSet`.
        part: `train` or `val`.
    """

    source = "ade20k"
    licence = "ADE20K terms (annotations BSD-3-Clause, images non-commercial)"
    PARTS = tuple(SPLITS)
    CLASS_NAMES = tuple(" ".join(NAMES.split()).split(", "))

    def find(self, root: Path) -> Iterable[Item]:
        """All photographs of the part."""
        folder = SPLITS[self.part]
        return pair_up(
            find_names(root, f"images/{folder}/*.jpg"),
            find_names(root, f"annotations/{folder}/*.png"),
        )

    def codes(self) -> Mapping[int, int]:
        """0 is no class; the classes are counted from 1."""
        return {0: NO_CLASS, **{number + 1: number for number in range(len(self.CLASS_NAMES))}}
