"""`depth-anything label`: a teacher and image shards in, pseudo-label shards out.

A label shard has the name, the keys and the order of its image shard and holds labels alone; images are never copied.
Its manifest is the only mark that it is done: a run that was stopped continues with the shards that have none.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_engine.labeller import LabelSettings, ShardLabeller, manifest_path
from depth_anything_train.command import build, command
from depth_anything_train.data.schema import DATASET_FILE, PSEUDO_LABELS, SCHEMA
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.inference.depth_anything import DepthAnything
from depth_anything_train.runtime import UserError, console, read_json, write_json

ON_RECORD = ("experiment", "steps", "encoder", "data", "licence", "source")
"""What the labels' folder repeats of what is on record about their teacher."""


@command("label")
def main(cfg: DictConfig) -> None:
    """Label a folder of image shards."""
    teacher = DepthAnything.from_pretrained(cfg.teacher, device=None if cfg.device == "auto" else cfg.device)
    settings = LabelSettings(size=cfg.size or teacher.size, batch_size=cfg.batch_size, windows=cfg.windows)
    labeller = ShardLabeller(teacher, settings, max_bad_share=cfg.max_bad_share, workers=cfg.workers)
    totals = label(labeller, Path(cfg.shards), Path(cfg.out), engine=build(cfg.engine))
    console.print(f"{totals['labelled']} of {totals['count']} images have pseudo labels in {cfg.out}.")


def label(labeller: ShardLabeller, images: Path, out: Path, *, engine: Any) -> Counter[str]:
    """Label what is not labelled yet and return the counts of all manifests.

    Args:
        labeller: teacher and settings.
        images: folder of image shards.
        out: folder of the label shards.
        engine: runs a labeller over shards.

    Raises:
        UserError: `out` holds labels of another teacher, other settings or other images.
    """
    if labeller.teacher.model.config.kind != "relative":
        raise UserError("Expected a relative teacher, but this model is metric; pseudo labels are relative disparity.")
    folder = ShardFolder(images)
    if folder.info["kind"] == PSEUDO_LABELS:
        raise UserError(f"Expected image shards in {images}, but it holds pseudo labels; name the images' folder.")
    claim(out, images, labeller, source=str(folder.info.get("source", images.name)))
    waiting = []
    for number, path in enumerate(folder.shards):
        mark = manifest_path(out, path)
        if not mark.exists():
            waiting.append(number)
        elif read_json(mark, keys=("input", "count", "labelled"))["input"] != folder.shard(number).digest:
            raise UserError(f"{path} changed since {mark} was written; label into another out=.")
    engine.run(labeller, folder, waiting, out)
    manifests = [read_json(manifest_path(out, path)) for path in folder.shards]
    return Counter({key: sum(manifest[key] for manifest in manifests) for key in ("count", "labelled")})


def claim(out: Path, images: Path, labeller: ShardLabeller, *, source: str) -> None:
    """Write what the folder holds before its first shard, or make sure that it holds just that.

    `teacher_record` is for the record of models that learn from these labels.

    Raises:
        UserError: it holds labels of another configuration.
    """
    identity = {
        "schema": SCHEMA,
        "kind": PSEUDO_LABELS,
        "source": source,
        "images": os.path.relpath(images.resolve(), out.resolve()),
        "teacher": labeller.teacher.hash,
        "settings": labeller.settings.to_dict(),
    }
    known = {key: value for key, value in labeller.teacher.extra.items() if key in ON_RECORD}
    description = {**identity, "teacher_record": {"hash": identity["teacher"], **known}}
    mark = out / DATASET_FILE
    if not mark.exists():
        write_json(mark, description)
        return
    found = read_json(mark, keys=("schema",))
    if found.get("kind") == PSEUDO_LABELS and not any(out.glob("*.tar")):  # a run that failed before its first shard
        write_json(mark, description)
        return
    if different := sorted(key for key in identity if found.get(key) != identity[key]):
        raise UserError(
            f"{out} holds labels made with another {', '.join(different)}; two kinds of labels are never mixed: "
            "choose another out= or delete that folder."
        )
