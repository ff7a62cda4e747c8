"""`depth-anything evaluate`: a model on labelled shards -> one table, with the protocol that made it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from depth_anything_train.command import build, command
from depth_anything_train.data.labels import Label, decode_label
from depth_anything_train.data.schema import BadSample
from depth_anything_train.inference.labelled import Records, Sample, open_data, read_sample
from depth_anything_train.inference.load import load_predictor
from depth_anything_train.inference.mean_map import MeanMap
from depth_anything_train.inference.prediction import Predictor
from depth_anything_train.inference.preprocess import resize_map
from depth_anything_train.metrics.protocol import Protocol, evaluate_image
from depth_anything_train.metrics.results import ImageResult, Results, to_csv, to_markdown
from depth_anything_train.runtime import (
    ProgressBar,
    UserError,
    console,
    provenance,
    require_writable,
    write_bytes,
    write_json,
)

MEAN_MAP = "mean_map"


def evaluate(
    model: Predictor,
    data: Mapping[str, Records],
    protocol: Protocol,
    *,
    split_by: str | None = None,
    size: int | None = None,
    batch: int = 1,
    limit: int | None = None,
) -> Results:
    """Judge a model on every sample of the named test sets.

    Args:
        model: anything with `.disparity(images, size)`.
        data: records by test set.
        protocol: how an image is judged.
        split_by: a field of the samples' json whose value names the test set instead.
        size: shorter side for the network; its own choice when None.
        batch: images of equal size given to the network together.
        limit: at most so many samples of each set.

    Returns:
        One result per image; what cannot be read or has nothing to judge is skipped and counted by reason.

    Raises:
        UserError: not one image could be judged, or the protocol asks a relative model for metres.
    """
    if protocol.alignment == "none" and model.kind == "relative":
        raise UserError(f"Protocol {protocol.name} judges metres, which a relative model does not predict; align it.")
    results = Results(protocol)
    counts = {name: min(len(records), limit or len(records)) for name, records in data.items()}
    with ProgressBar("evaluate", sum(counts.values())) as bar:
        samples = _read_samples(data, counts, split_by, results.skipped, bar)
        for group in _batches(samples, batch):
            for sample, disparity in zip(group, model.disparity([s.image for s in group], size), strict=True):
                resized = resize_map(disparity, *sample.disparity.shape)
                measures = evaluate_image(resized, sample.disparity, sample.valid, protocol, unit=sample.unit)
                if measures is None:
                    results.skipped["too_few_valid_pixels"] += 1
                else:
                    results.images.append(ImageResult(sample.group, sample.key, measures))
    if not results.images:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in results.skipped.items()) or "no samples"
        raise UserError(f"Expected images with labels to evaluate on, but none could be used ({reasons}).")
    results.images.sort(key=lambda result: (result.group, result.key))
    return results


def _read_samples(
    data: Mapping[str, Records],
    counts: Mapping[str, int],
    split_by: str | None,
    skipped: Counter[str],
    bar: ProgressBar,
) -> Iterator[Sample]:
    for name, records in data.items():
        for index in range(counts[name]):
            try:
                yield read_sample(records[index], name, split_by)
            except BadSample as error:
                skipped[error.reason] += 1
            bar.advance()


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Neighbours with images of one size, at most `size` together."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) >= size or sample.image.shape != group[0].image.shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def write_results(folder: Path, results: Results, model: dict[str, Any]) -> None:
    """Write results.csv (per image), results.md (per test set) and, last, results.json (means, protocol, origin)."""
    write_bytes(folder / "results.csv", to_csv(results).encode())
    write_bytes(folder / "results.md", to_markdown(results, model["name"]).encode())
    content = {
        "schema": 1,
        "model": model,
        "protocol": results.protocol.to_dict(),
        "caption": results.protocol.describe(),
        "groups": results.groups(),
        "mean": results.mean(),
        "images": len(results.images),
        "skipped": dict(results.skipped),
        "provenance": provenance(),
    }
    write_json(folder / "results.json", content)


# -- The command. ------------------------------------------------------------------------------------------------------


def open_model(model: str, labelled: Sequence[str]) -> Predictor:
    """`mean_map` over the labelled folders, or whatever `load_predictor` takes.

    Raises:
        UserError: there is no such model, or the mean map has no labels.
    """
    if model != MEAN_MAP:
        return load_predictor(model)
    if not labelled:
        raise UserError("model=mean_map averages training labels: add labelled=[DIR,...].")
    return MeanMap.from_labels(_labels(open_data(list(labelled)).values()))


def _labels(folders: Collection[Records]) -> Iterator[Label]:
    """All labels that can be read; the others were counted when their shards were written or trained on."""
    with ProgressBar("mean map", sum(map(len, folders))) as bar:
        for folder in folders:
            for index in range(len(folder)):
                with contextlib.suppress(BadSample):
                    record = folder[index]
                    yield decode_label(*record.label(), record.meta)
                bar.advance()


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate `cfg.model` on `cfg.data` under `cfg.benchmark` and write the tables to `cfg.out`."""
    out = Path(cfg.out)
    require_writable(out)
    protocol = build(cfg.benchmark)
    data = open_data(OmegaConf.to_container(cfg.data) if OmegaConf.is_config(cfg.data) else cfg.data)
    model = open_model(cfg.model, cfg.labelled)
    results = evaluate(model, data, protocol, split_by=cfg.split_by, size=cfg.size, batch=cfg.batch, limit=cfg.limit)
    write_results(out, results, {"name": Path(cfg.model).name, "hash": model.hash, "size": cfg.size})
    mean = results.mean()
    figures = f"AbsRel {mean['abs_rel']:.4f}, δ1 {mean['delta1']:.4f}"
    counts = f"{len(results.images)} images, {results.skipped.total()} skipped"
    console.print(f"{figures} ({counts}): {out / 'results.md'}", soft_wrap=True)


if __name__ == "__main__":
    main()
