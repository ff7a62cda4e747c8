"""Open whatever a user names as a model to evaluate: a predictor, or the mean map as a baseline."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from depth_anything_train.data.labels import decode_label
from depth_anything_train.data.schema import BadSample, Label
from depth_anything_train.data.test_sets import Records, open_data
from depth_anything_train.inference.load import load_predictor
from depth_anything_train.inference.mean_map import MeanMap
from depth_anything_train.inference.prediction import Predictor
from depth_anything_train.runtime import ProgressBar, UserError

MEAN_MAP = "mean_map"


def is_mean_map(model: str) -> bool:
    """Whether it names the baseline, in metres or not."""
    return model.partition(":")[0] == MEAN_MAP


def name_of(model: str) -> str:
    """What a model is called beside others: the last part of its path, of `.` and `..` too."""
    return Path(model).expanduser().resolve().name if Path(model).name in ("", "..") else Path(model).name


def require_reader(labelled: Sequence[str], models: Sequence[str]) -> None:
    """Refuse labelled folders that no model reads.

    Raises:
        UserError: there are some, and none of the models is the mean map.
    """
    if labelled and not any(map(is_mean_map, models)):
        raise UserError(f"labelled= belongs to model=mean_map, which averages it, but got model={', '.join(models)}.")


def open_model(model: str, labelled: Sequence[str], *, device: str | None = None, progress: bool = True) -> Predictor:
    """`mean_map` over the labelled folders, shown with its `progress` or without, or whatever `load_predictor` takes.

    `mean_map:40` is the one in metres, up to 40.

    Raises:
        UserError: there is no such model, or the mean map has no labels, or none in metres where it is to be in metres.
    """
    farthest = model.partition(":")[2]
    if not is_mean_map(model):
        return load_predictor(model, device=device)
    if not labelled:
        raise UserError("model=mean_map averages training labels: add labelled=[DIR,...].")
    labels = _labels(open_data(list(labelled)).values(), progress, metres=bool(farthest))
    if not farthest:
        return MeanMap.from_labels(labels)
    if not farthest.isdecimal() or int(farthest) < 1:
        raise UserError(f"Expected whole metres in model={model}, such as mean_map:40.")
    return MeanMap.in_metres(labels, farthest_m=int(farthest))


def _labels(folders: Collection[Records], progress: bool, *, metres: bool) -> Iterator[Label]:
    """All labels that can be read; the others were counted when their shards were written or trained on.

    Raises:
        UserError: one is not in metres, where `metres` are wanted.
    """
    with ProgressBar("mean map", sum(map(len, folders)), shown=progress) as bar:
        for folder in folders:
            for index in range(len(folder)):
                with contextlib.suppress(BadSample):
                    record = folder[index]
                    if metres and record.unit != "m":
                        raise UserError(
                            f"Expected labels in metres for a mean map in metres, but sample {record.key} says "
                            f"unit={record.unit}; name other folders as labelled, or take model=mean_map."
                        )
                    yield decode_label(*record.label(), record.meta)
                bar.advance()
