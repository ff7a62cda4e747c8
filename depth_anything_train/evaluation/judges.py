"""What a protocol asks of a sample: how its record is read, and what is measured on a prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_anything_train.data.images import decode_image
from depth_anything_train.data.metric import kb_crop
from depth_anything_train.data.schema import IMAGES, LABELLED, BadSample, Record
from depth_anything_train.data.test_sets import TestSample, group_of, read_sample
from depth_anything_train.metrics.depth import MIN_PIXELS, DepthProtocol, evaluate_image
from depth_anything_train.metrics.pairs import Pair, pair_accuracy
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.metrics.results import Measures
from depth_anything_train.metrics.units import median_ratio

SCENARIO = "scenario"


@dataclass(frozen=True)
class PairSample:
    """One decoded image with its pairs of points."""

    group: str
    key: str
    image: NDArray[np.uint8]
    pairs: list[Pair]
    focal_px: float = 1.0  # any: which of two points is nearer does not depend on it

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at which a prediction is judged: those of the image."""
        height, width, _ = self.image.shape
        return height, width


class Judge(Protocol):
    """Reads and measures under one protocol."""

    @property
    def shards_kind(self) -> str:
        """Kind of the shards that hold its samples."""

    def read(self, record: Record, group: str, split_by: str | None) -> Any:
        """A record -> a sample with `group`, `key`, `image`, and the `shape` at which it is judged."""

    def measure(self, sample: Any, disparity: NDArray[np.float32]) -> Measures:
        """The numbers of one prediction, inverse depth at the sample's `shape`."""

    def unit_ratio(self, sample: Any, disparity: NDArray[np.float32]) -> float | None:
        """Predicted over true depth, by which a wrong unit shows; None where metres do not count or are not known."""


def judge_of(protocol: EvaluationProtocol) -> Judge:
    """The judge under a protocol."""
    return DepthJudge(protocol) if isinstance(protocol, DepthProtocol) else PairJudge()


@dataclass(frozen=True)
class DepthJudge:
    """Compares with a depth map."""

    protocol: DepthProtocol

    shards_kind = LABELLED

    def read(self, record: Record, group: str, split_by: str | None) -> TestSample:
        """Decode image and label, and cut both where the protocol says so.

        Raises:
            BadSample: as `read_sample` or `kb_crop`.
        """
        sample = read_sample(record, group, split_by)
        if self.protocol.input_crop == "none":
            return sample
        maps = {"image": sample.image, "disparity": sample.disparity, "valid": sample.valid}
        cut = kb_crop({**maps, "key": sample.key})
        image, disparity, valid = (np.ascontiguousarray(cut[name]) for name in maps)
        return replace(sample, image=image, disparity=disparity, valid=valid)

    def measure(self, sample: TestSample, disparity: NDArray[np.float32]) -> Measures:
        """As `evaluate_image`.

        Raises:
            BadSample: `not_in_metres` where the protocol judges metres, `too_few_valid_pixels`, or
                `outside_range_or_crop` where the protocol leaves none of them.
        """
        if self.protocol.alignment == "none" and sample.unit != "m":
            raise BadSample("not_in_metres", f"The label of {sample.key} has unit {sample.unit!r}.")
        measures = evaluate_image(disparity, sample.disparity, sample.valid, self.protocol, unit=sample.unit)
        if measures is None:
            few = np.count_nonzero(sample.valid & (sample.disparity > 0)) < MIN_PIXELS[self.protocol.alignment]
            reason = "too_few_valid_pixels" if few else "outside_range_or_crop"
            raise BadSample(reason, f"{sample.key} has nothing to judge.")
        return measures

    def unit_ratio(self, sample: TestSample, disparity: NDArray[np.float32]) -> float | None:
        """As `median_ratio`, whether or not the image can be judged."""
        if self.protocol.alignment != "none" or sample.unit != "m":
            return None
        return median_ratio(disparity, sample.disparity, sample.valid)


class PairJudge:
    """Compares with what people said about pairs of points."""

    shards_kind = IMAGES

    def read(self, record: Record, group: str, split_by: str | None) -> PairSample:
        """Decode the image and check its pairs; the test set is its scenario, where it names one.

        Raises:
            BadSample: `no_pairs`, `bad_annotation`, or as `decode_image`.
        """
        meta = record.meta
        pairs = meta.get("pairs")
        if not isinstance(pairs, list) or not pairs:
            raise BadSample("no_pairs", f"Sample {record.key} has no pairs in its json.")
        image = decode_image(record.image)
        if not all(_inside(pair, *image.shape[:2]) for pair in pairs):
            raise BadSample("bad_annotation", f"A pair of {record.key} is none, or lies outside its image.")
        group = group_of(record, str(meta.get(SCENARIO) or group), split_by)
        return PairSample(group, record.key, image, pairs)

    def measure(self, sample: PairSample, disparity: NDArray[np.float32]) -> Measures:
        """`accuracy` in percent, and how many `pairs` there are."""
        return {"pairs": len(sample.pairs), "accuracy": pair_accuracy(disparity, sample.pairs)}

    def unit_ratio(self, sample: PairSample, disparity: NDArray[np.float32]) -> float | None:
        """Metres do not count here."""
        return None


def _inside(pair: Any, height: int, width: int) -> bool:
    try:
        points = (pair["nearer"], pair["farther"])
        whole = all(isinstance(place, int) for point in points for place in point)
        return whole and all(0 <= row < height and 0 <= column < width for row, column in points)
    except (KeyError, TypeError, ValueError):
        return False
