"""The model card: what others need to know about a model's weights, from what was recorded about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from depth_anything_train.metrics.results import in_table, titled
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.encoder_weights import HUB_NAMES

Record = Mapping[str, Any]

QUOTED = ("abs_rel", "delta1", "rmse", "accuracy")
"""What a card quotes of an evaluation."""

KINDS = {"labelled": "with labels", "pseudo_labels": "with the teacher's pseudo labels"}
RESTRICTED = re.compile(r"\bNC\b|non[- ]?commercial|research", re.IGNORECASE)
UNKNOWN = "not on record"

OUTPUT = {
    "relative": """\
One number a pixel: relative **disparity**, larger is nearer. It is inverse depth up to a scale > 0 and a shift, which
are unknown and differ from image to image. So it is no distance, and the values of two images cannot be compared.""",
    "metric": """\
One number a pixel: **depth in metres** along the optical axis, between 0 and {max_depth_m:g}; smaller is nearer.""",
}

USE = """\
```python
from transformers import pipeline

pipe = pipeline("depth-estimation", model="FOLDER")
prediction = pipe("photo.jpg")["predicted_depth"]  # {name} at the photo's size; "depth" is a picture of it
```
```python
from depth_anything_train import DepthAnything

model = DepthAnything.from_pretrained("FOLDER")
prediction = model.predict("photo.jpg").{name}  # at the photo's size
```"""

POSITIONS = """\
This model resamples its position embedding the way of `{position}`, `transformers` in another way: for one prepared
image both give the same numbers up to rounding at {side} x {side} pixels, and slightly different ones elsewhere."""

PREPARATION = """\
`transformers` smooths a photograph that it makes smaller; the released code of Depth Anything and this program do not.
So the two calls above differ slightly too."""


def model_card(config: DepthModelConfig, extra: Record) -> str:
    """The README.md of a Hugging Face model folder; what was not recorded is called unknown, never guessed.

    Args:
        config: the model's.
        extra: what is stored beside its weights. Read are `experiment`, `steps`, `size`, `encoder` (where its first
            weights came from), `data` (a list of `source`, `kind`, `images`, `licences` and, of pseudo labels,
            `teacher`), `run` (provenance), `source` (of weights that were trained elsewhere), `licence` (of the
            weights, a Hugging Face identifier) and `results` (a list of what `evaluate` writes to results.json, with
            the `size` at which the network saw the images). All of them may be missing.
    """
    name = str(extra.get("experiment", f"depth-anything-{config.encoder.name}"))
    quantity = "disparity" if config.kind == "relative" else "depth_m"
    sections = {
        "Output": OUTPUT[config.kind].format(max_depth_m=config.max_depth_m),
        "Use": USE.format(name=quantity),
        "Recipe": "\n".join(_recipe(config, extra)),
        "Data and licences": "\n".join(_licences(config, extra)),
        "Results": "\n".join(_results(extra)) or "No evaluation is on record.",
        "Numbers in transformers": "\n\n".join(_differences(config)),
    }
    intro = f"Monocular depth: DINOv2 encoder `{config.encoder.name}` and DPT decoder (Depth Anything)."
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_head(name, config, extra).to_yaml()}\n---\n\n# {name}\n\n{intro}\n\n{body}\n"


def _differences(config: DepthModelConfig) -> Iterator[str]:
    if config.encoder.position != "transformers":
        yield POSITIONS.format(position=config.encoder.position, side=config.encoder.image_size)
    yield PREPARATION


def _head(name: str, config: DepthModelConfig, extra: Record) -> ModelCardData:
    """The part that machines read."""
    base = _hub_encoder(config, extra)
    return ModelCardData(
        license=extra.get("licence", "unknown"),
        library_name="transformers",
        pipeline_tag="depth-estimation",
        tags=["depth", f"{config.kind} depth", "depth-anything"],
        base_model=f"timm/{base}" if base else None,
        model_name=name,
        eval_results=list(_eval_results(extra)) or None,
    )


def _eval_results(extra: Record) -> Iterator[EvalResult]:
    for result in extra.get("results", ()):
        for group, measures in result["groups"].items():
            for metric in (metric for metric in QUOTED if metric in measures):
                yield EvalResult(
                    task_type="depth-estimation",
                    dataset_type=group,
                    dataset_name=f"{group} ({result['caption']})",
                    metric_type=metric,
                    metric_value=measures[metric],
                )


def _recipe(config: DepthModelConfig, extra: Record) -> Iterator[str]:
    run = extra.get("run", {})
    yield f"- experiment: {extra.get('experiment', UNKNOWN)}"
    yield f"- optimiser steps: {extra.get('steps', UNKNOWN)}"
    yield f"- shorter side at which it sees a photograph, in pixels: {extra.get('size', UNKNOWN)}"
    yield f"- decoder reads blocks {', '.join(map(str, config.encoder.taps))} of {config.encoder.depth}, counted from 0"
    yield f"- commit of the training program: {run.get('commit', UNKNOWN)}"
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    yield f"- versions: {versions or UNKNOWN}"


def _licences(config: DepthModelConfig, extra: Record) -> Iterator[str]:
    """Where the numbers in the weights come from, with the licence of each source."""
    given = str(extra.get("encoder", UNKNOWN))
    encoder = _hub_encoder(config, extra) or ("random weights" if given == "none" else _last_parts(given))
    dinov2 = " (DINOv2, Apache-2.0)" if encoder in HUB_NAMES.values() else ""
    yield f"- licence of these weights: {extra.get('licence', UNKNOWN)}"
    if "source" in extra:
        yield f"- taken over from: {_last_parts(extra['source'])}"
    if init := extra.get("init"):
        yield f"- training started from: {_last_parts(init['source'])} ({init['hash'][:16]}), which learnt from"
        yield from _data(init, "  ")
    else:
        yield f"- the encoder started from: {encoder}{dinov2}"
    yield from _data(extra, "")


def _data(extra: Record, indent: str) -> Iterator[str]:
    """One line a data set; those that the teacher of pseudo labels learnt from stand below the labels."""
    if not extra.get("data"):
        yield f"{indent}- training data: {UNKNOWN}"
    for data in extra.get("data", ()):
        licences = data.get("licences") or {}
        restricted = " **(restricts use)**" if any(RESTRICTED.search(licence) for licence in licences) else ""
        images = f"{data['images']:,} images" if "images" in data else f"number of images {UNKNOWN}"
        kind = KINDS.get(data.get("kind"), data.get("kind", ""))
        licence = "; ".join(sorted(licences)) or UNKNOWN
        yield f"{indent}- `{data.get('source', UNKNOWN)}`, {images} {kind}; licence: {licence}{restricted}"
        if teacher := data.get("teacher"):
            name = teacher.get("experiment") or _last_parts(teacher.get("source", f"recipe {UNKNOWN}"))
            yield f"{indent}  - teacher: {name} ({teacher['hash'][:16]}), licence: {teacher.get('licence', UNKNOWN)}"
            yield from _data(teacher, f"{indent}    ")


def _last_parts(source: str) -> str:
    """A file, a folder or a name on the hub, without the rest of a path on somebody's machine."""
    return "/".join(Path(source).parts[-2:])


def _results(extra: Record) -> Iterator[str]:
    for result in extra.get("results", ()):
        shown = [metric for metric in QUOTED if metric in result["mean"]]
        yield f"{result['images']} images, shorter side {result.get('size', UNKNOWN)}; {result['caption']}."
        yield ""
        yield f"| test set | images | {' | '.join(map(titled, shown))} |"
        yield f"|---|---:|{'---:|' * len(shown)}"
        last = "**all pairs**" if "accuracy" in result["mean"] else "**mean of sets**"
        for group, row in (result["groups"] | {last: result["mean"]}).items():
            cells = (f"{row[metric]:.4f}" if metric in row else "" for metric in shown)
            yield f"| {in_table(group)} | {row.get('images', result['images'])} | {' | '.join(cells)} |"
        yield ""


def _hub_encoder(config: DepthModelConfig, extra: Record) -> str | None:
    """Name at timm of the encoder that training started from; None where it was another or is not on record."""
    source, _, name = str(extra.get("encoder", "")).partition(":")
    return (name or HUB_NAMES.get(config.encoder.name)) if source == "hub" else None
