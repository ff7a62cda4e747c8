"""A model on test sets: every sample is read, predicted and judged once, on one process or several."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from depth_anything_train.data.schema import BadSample
from depth_anything_train.data.test_sets import LOOKED_AT, Records, fields_of, no_such_field
from depth_anything_train.evaluation.distributed import ALONE, Ranks
from depth_anything_train.evaluation.judges import Judge, judge_of
from depth_anything_train.inference.flip import FlipAverage
from depth_anything_train.inference.prediction import Prediction, Predictor
from depth_anything_train.metrics.depth import DepthProtocol
from depth_anything_train.metrics.protocol import EvaluationProtocol
from depth_anything_train.metrics.results import ImageResult, Results, listed
from depth_anything_train.metrics.units import unit_warning
from depth_anything_train.runtime import ProgressBar, UserError

Origin = tuple[str, int]
"""Name of a test set and position of a sample in it."""


def evaluate(
    model: Predictor,
    data: Mapping[str, Records],
    protocol: EvaluationProtocol,
    *,
    split_by: str | None = None,
    size: int | None = None,
    batch_size: int = 1,
    align_metric: bool = False,
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> Results:
    """Judge a model on every sample of the named test sets.

    Args:
        model: anything with `.forward(images, size, focals_px)` and a `kind`.
        data: records by test set.
        protocol: how an image is judged.
        split_by: a field of the samples' json whose value names the test set instead.
        size: shorter side for the network; that of the protocol when None, and its own choice if that is None.
        batch_size: images of equal size given to the network together.
        align_metric: let a protocol that aligns judge a metric model, whose scale is then not judged.
        ranks: the processes that share the work.
        progress: let the first process show how far it is.

    Returns:
        One result per image, sorted; what cannot be read or has nothing to judge is skipped and counted by reason. All
        of it is on the first process, the others get empty results.

    Raises:
        UserError: protocol and kind of model do not fit together, or the model states what is no number; on the first
            process alone, not one image could be judged.
    """
    check_kind(model, protocol, align_metric=align_metric)
    if split_by is not None:
        _check_split(data, split_by)
    origins = [(name, k) for name, records in data.items() for k in range(len(records))]
    blocks = [origins[start : start + batch_size] for start in range(0, len(origins), batch_size)]
    judge, predictor, size = judge_of(protocol), with_flip(model, protocol), size or protocol.size
    part = Results(protocol)
    with ProgressBar("evaluate", sum(map(len, blocks[:: ranks.world])), shown=progress and ranks.first) as bar:

        def judge_block(block: Sequence[Origin]) -> None:
            samples = _read(block, data, judge, split_by, part.skipped)
            for origin, sample, prediction in _predict(predictor, samples, size, part.skipped):
                disparity = prediction.resized(*sample.shape).disparity
                if (ratio := judge.unit_ratio(sample, disparity)) is not None:
                    part.ratios.append(ratio)  # also of an image that cannot be judged: its unit may be why
                try:
                    measures = judge.measure(sample, disparity)
                    part.images.append(ImageResult(sample.group, sample.key, measures, origin))
                except BadSample as error:
                    part.skipped[error.reason] += 1
            bar.advance(len(block))

        ranks.share(blocks, judge_block)
    results = _merged(ranks.gather(part), protocol)
    results.size = size
    if ranks.first and not results.images:
        raise UserError(_nothing_judged(results, data, split_by))
    return results


def _check_split(data: Mapping[str, Records], split_by: str) -> None:
    """Refuse a field that a few records of each set do not have, if it is mistyped or they are all that there are.

    Raises:
        UserError: the field is one of these.
    """
    fields, seen_all = fields_of(data), all(len(records) <= LOOKED_AT for records in data.values())
    if fields and split_by not in fields and (seen_all or get_close_matches(split_by, fields)):
        raise UserError(no_such_field(split_by, fields))


def _nothing_judged(results: Results, data: Mapping[str, Records], split_by: str | None) -> str:
    reasons = results.skipped
    if split_by is not None and reasons[f"no_{split_by}"] == reasons.total() > 0:
        return f"Expected a field of the samples' json as split_by, but none of {', '.join(data)} has {split_by}."
    used = f"none of {', '.join(data)} could be used ({listed(reasons)})"
    return f"Expected images with labels to evaluate on, but {used}. {unit_warning(results.ratios) or ''}".rstrip()


def check_kind(model: Predictor, protocol: EvaluationProtocol, *, align_metric: bool, name: str = "") -> None:
    """A relative model has no metres, and aligning a metric model hides what it is for.

    Raises:
        UserError: protocol and kind of model, which may have a name, do not fit together.
    """
    if not isinstance(protocol, DepthProtocol):
        return
    which = f"model {name}" if name else "model"
    if protocol.alignment == "none" and model.kind == "relative":
        raise UserError(
            f"Protocol {protocol.name} judges metres, which the relative {which} does not predict; "
            "take a protocol that aligns, or as the mean map mean_map:METRES."
        )
    if protocol.alignment != "none" and model.kind == "metric" and not align_metric:
        raise UserError(
            f"Protocol {protocol.name} aligns every image with its label, which hides whether the metres of the metric "
            f"{which} are right; use benchmark=metric or another without alignment, or say align_metric=true."
        )


def with_flip(model: Predictor, protocol: EvaluationProtocol) -> Predictor:
    """The model, averaged with its view of the mirror image where the protocol says `flip`."""
    return FlipAverage(model) if protocol.flip else model


def _read(
    block: Sequence[Origin], data: Mapping[str, Records], judge: Judge, split_by: str | None, skipped: Counter[str]
) -> Iterator[tuple[Origin, Any]]:
    for name, k in block:
        try:
            yield (name, k), judge.read(data[name][k], name, split_by)
        except BadSample as error:
            skipped[error.reason] += 1


def _predict(
    model: Predictor, samples: Iterable[tuple[Origin, Any]], size: int | None, skipped: Counter[str]
) -> Iterator[tuple[Origin, Any, Prediction]]:
    """Every sample with its prediction; those that are alike go through the network together."""
    for group in _alike(samples):
        try:
            maps = model.forward([sample.image for _, sample in group], size, [sample.focal_px for _, sample in group])
        except BadSample as error:
            skipped[error.reason] += len(group)
            continue
        for (origin, sample), values in zip(group, maps, strict=True):
            yield origin, sample, Prediction(values, model.kind)


def _alike(samples: Iterable[tuple[Origin, Any]]) -> Iterator[list[tuple[Origin, Any]]]:
    """Neighbours with images of one size, the focal lengths of all of them known or of none."""
    for _, group in itertools.groupby(samples, lambda pair: (pair[1].image.shape, pair[1].focal_px is None)):
        yield list(group)


def _merged(parts: Sequence[Results], protocol: EvaluationProtocol) -> Results:
    """All parts as one, sorted, so that it does not matter who judged what."""
    images = sorted((image for part in parts for image in part.images), key=lambda image: (image.group, image.key))
    skipped = sum((part.skipped for part in parts), Counter[str]())
    return Results(protocol, images, skipped, sorted(ratio for part in parts for ratio in part.ratios))
