"""Real pairs: every kind of sensor is judged with its own unit and sparsity."""

import csv

import numpy as np
import pytest

from data_engine.ingest.pairs import Pairs
from depth_anything_train.data.schema import Record
from depth_anything_train.evaluation.loop import evaluate
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.runtime import UserError

pytestmark = pytest.mark.samples


class NearerBelow:
    """A ramp: rooms, streets and tables are nearer at the bottom of a photograph."""

    hash = "ramp"

    def __init__(self, kind="relative"):
        self.kind = kind

    def forward(self, images, size=None, focals_px=None):
        disparity = np.linspace(0.05, 1, 64, dtype=np.float32)[:, None].repeat(8, 1)
        return [disparity if self.kind == "relative" else 1 / disparity for _ in images]


@pytest.fixture(scope="module")
def sensors(samples_folder):
    """One record a folder of the samples, which is one a sensor, and the index's row of each."""
    with open(samples_folder / "index.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file) if row["kind"] == "pair"}
    pairs = Pairs(str(samples_folder))
    first = {}
    for item in pairs.items():
        first.setdefault(item.name.partition("/")[0], item)
    records = {name: Record(item.key, pairs.load(item).members) for name, item in first.items()}
    return records, {name: rows[item.name] for name, item in first.items()}


def test_every_sensor__is_judged_on_the_pixels_that_it_measured(sensors):
    records, rows = sensors
    results = evaluate(NearerBelow(), {name: [record] for name, record in records.items()}, DepthProtocol())
    assert not results.skipped and {image.group for image in results.images} == set(rows)
    for image in results.images:
        row = rows[image.group]
        size = int(row["depth_w"]) * int(row["depth_h"])
        assert image.measures["pixels"] / size == pytest.approx(float(row["valid_fraction"]), abs=2e-4)
        assert ("rmse" in image.measures) == (row["depth_units"] == "m"), "only metres have an error in metres"
        assert 0 < image.measures["abs_rel"] < 1.5 and 0 < image.measures["abs_rel_disparity"]
    shares = [image.measures["pixels"] for image in results.images if rows[image.group]["sensor"].startswith("Lum")]
    assert shares and max(shares) < 0.05 * 1936 * 1216, "a LiDAR is sparse"


def test_every_metric_sensor__is_judged_in_metres_and_others_are_counted(sensors):
    records, rows = sensors
    metric = DepthProtocol("metric", alignment="none", cap_m=200.0)
    in_metres = {name: [records[name]] for name, row in rows.items() if row["depth_units"] == "m"}
    results = evaluate(NearerBelow("metric"), in_metres, metric)
    assert len(results.images) == len(in_metres) == len(results.ratios)
    others = len(rows) - len(in_metres)
    mixed = evaluate(NearerBelow("metric"), {name: [records[name]] for name in rows}, metric)
    assert others > 0 and mixed.skipped == {"not_in_metres": others} and mixed.mean() == results.mean()
    with pytest.raises(UserError, match=f"could be used .{others} x not_in_metres"):
        rest = {name: [records[name]] for name in rows.keys() - in_metres.keys()}
        evaluate(NearerBelow("metric"), rest, metric)
