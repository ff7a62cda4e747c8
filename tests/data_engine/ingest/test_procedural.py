from __future__ import annotations

import json
import pickle

import cv2
import numpy as np
import pytest

from data_engine.ingest.procedural import Item, Procedural
from data_engine.world import CLASSES, render
from depth_anything_train.data.labels import decode_label
from depth_anything_train.runtime import UserError

SIZE = {"height": 42, "width": 56}


def test_items__take_the_domains_in_turn():
    ingest = Procedural(domains=["room-day", "street-night"], count=5, seed=0, **SIZE)
    assert ingest.items() == [
        Item("room-day", 0),
        Item("street-night", 0),
        Item("room-day", 1),
        Item("street-night", 1),
        Item("room-day", 2),
    ]
    keys = [ingest.load(item).key for item in ingest.items()]
    assert keys[3] == "street-night-000001" and len(set(keys)) == 5


def test_load__holds_the_exact_disparity_of_the_scene():
    ingest = Procedural(domains=["street-day"], count=3, seed=4, **SIZE)
    members = ingest.load(ingest.items()[2]).members
    meta = json.loads(members["json"])
    disparity, valid = decode_label("disparity.dz16", members["disparity.dz16"], meta)
    drawn = render("street-day", seed=4, index=2, **SIZE)
    assert drawn.sky.any() and valid.all()
    assert (disparity[drawn.sky] == 0).all()
    np.testing.assert_allclose(disparity, 1 / drawn.depth_m, atol=1.01 * (1 / drawn.depth_m).max() / 131068 + 1e-7)


def test_load__image_and_classes_are_those_of_the_scene():
    ingest = Procedural(domains=["pile-day"], count=1, seed=0, **SIZE)
    members = ingest.load(ingest.items()[0]).members
    drawn = render("pile-day", seed=0, index=0, **SIZE)
    image = cv2.imdecode(np.frombuffer(members["jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(float) - drawn.image).mean() < 6
    classes = cv2.imdecode(np.frombuffer(members["classes.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(classes, drawn.classes)
    assert ingest.info()["classes"] == list(CLASSES)


def test_load__meta_says_what_the_label_is():
    ingest = Procedural(domains=["land-fog"], count=1, seed=0, **SIZE)
    meta = json.loads(ingest.load(ingest.items()[0]).members["json"])
    assert (meta["source"], meta["kind"], meta["quantity"], meta["domain"]) == (
        "procedural", "labelled", "disparity", "land-fog",
    )  # fmt: skip
    assert meta["camera"]["cx"] == 27.5 and meta["camera"]["fx"] > 0  # the first pixel's centre is at 0, as everywhere


def test_load__images_hold_no_label():
    same = {"domains": ["*-day"], "count": 5, "seed": 0, **SIZE}
    labelled, images = Procedural(kind="labelled", **same), Procedural(kind="images", **same)
    for one, other in zip(labelled.items(), images.items(), strict=True):
        assert set(images.load(other).members) == {"jpg"}
        assert images.load(other).members["jpg"] == labelled.load(one).members["jpg"]


def test_load__same_bytes_in_another_process():
    ingest = Procedural(domains=["corridor-dusk"], count=2, seed=9, **SIZE)
    copy, item = pickle.loads(pickle.dumps((ingest, ingest.items()[1])))
    assert copy.load(item) == ingest.load(ingest.items()[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "video"}, "kind=labelled"),
        ({"count": 0}, "count=200"),
        ({"count": None}, "count=200"),
        ({"height": 8}, "28 pixels"),
        ({"domains": ["moon-day"]}, "moon-day"),
    ],
)
def test_procedural__bad_settings_get_one_clear_sentence(wrong, message):
    settings = {"domains": ["room-day"], "count": 1, "seed": 0, **SIZE} | wrong
    with pytest.raises(UserError, match=message):
        Procedural(**settings)


@pytest.mark.parametrize("domains", [[], "room-day"])
def test_domains__must_be_a_list_with_something_in_it(domains):
    with pytest.raises(UserError, match="Expected a list of domains"):
        Procedural(domains, count=2, seed=0)
