"""`depth-anything label`: a teacher and image shards in, pseudo-label shards out.

A label shard has the name, the keys and the order of its image shard and holds labels alone; images are never copied.
Its manifest is the only mark that it is done: a run that was stopped continues with the shards that have none.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_engine.engines.base import Engine
from data_engine.labelling.claim import claim
from data_engine.labelling.filters import Filters
from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.manifest import find_manifest, has_labels, manifest_path, read_manifest
from data_engine.labelling.settings import LabelSettings
from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.data.remote import AnyPath, as_path
from depth_anything_train.data.schema import DATASET_FILE, PSEUDO_LABELS
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import require_writable
from depth_anything_train.runtime import UserError, console
from depth_anything_train.signals import leaving_on_request


@command("label", short_of_memory="take a smaller batch_size, or on a GPU engine.processes=1; what is labelled stays")
def main(cfg: DictConfig) -> None:
    """Label a folder of image shards."""
    from data_engine.labelling.teacher import ModelTeacher  # torch, which workers with another teacher do not need

    teacher = ModelTeacher(
        cfg.teacher, device=cfg.device, precision=cfg.precision, compile=cfg.compile, threads=cfg.threads
    )
    settings = LabelSettings(
        size=cfg.size or teacher.size,
        batch_size=cfg.batch_size,
        patience=cfg.patience,
        aspects=None if cfg.aspects is None else list(cfg.aspects),
        flip=cfg.flip,
        filters=Filters(**cfg.filters),
    )
    labeller = ShardLabeller(teacher, settings, max_bad_share=cfg.max_bad_share, workers=cfg.workers)
    show(label(labeller, cfg.shards, Path(cfg.out), engine=build(cfg.engine)), cfg.out)


def label(labeller: ShardLabeller, images: str | AnyPath, out: Path, *, engine: Engine) -> list[dict[str, Any]]:
    """Label what is not labelled yet and return all manifests, in the order of the shards.

    Args:
        labeller: teacher and settings.
        images: folder or address of image shards.
        out: folder of the label shards.
        engine: runs the labeller over shards.

    Raises:
        UserError: `out` cannot be written to, or holds labels of another teacher, other settings or other images, or
            some shards cannot be labelled, which all others are then.
        SystemExit: with `RUN_AGAIN` after SIGTERM, SIGUSR1 or Ctrl-C; what is done is kept.
    """
    where, out = as_path(images), out.resolve()
    folder = ShardFolder(where.resolve() if isinstance(where, Path) else where)  # workers may run in other folders
    if folder.info["kind"] == PSEUDO_LABELS:
        raise UserError(f"Expected image shards in {images}, but it holds pseudo labels; name the images' folder.")
    if any(manifest_path(out, path).name == DATASET_FILE for path in folder.shards):
        raise UserError(
            f"An image shard cannot be named dataset.tar: the manifest of its labels would be {DATASET_FILE}; rename "
            "the tar and its index."
        )
    require_writable(out)
    with claim(out, folder, labeller):
        names = {path.name for path in folder.shards}
        if surplus := sorted(path.name for path in out.glob("[!.]*.tar") if path.name not in names):
            console.print(
                f"{len(surplus)} shards of {out} have no images in {folder.path} (first {surplus[0]}): training "
                "refuses them. Put the images back, or delete these labels: the tar, its .idx and its .json.",
                soft_wrap=True,
            )
        waiting = []
        for number, path in enumerate(folder.shards):
            mark = manifest_path(out, path)
            manifest = find_manifest(out, folder, number, labeller.identity)
            if manifest is not None and not has_labels(mark, manifest):
                console.print(f"The labels of {mark} are gone or damaged; they are made again.", soft_wrap=True)
                mark.unlink(missing_ok=True)  # other tasks of an array may see the same
                manifest = None
            if manifest is None:
                waiting.append(number)
        if waiting:
            with leaving_on_request():
                failures = engine.run(labeller, folder, waiting, out)
            if failures:
                raise UserError(
                    f"{len(failures)} of {len(folder.shards)} shards cannot be labelled, all others are: "
                    f"{' '.join(failures[number] for number in sorted(failures))} The same command tries them again."
                )
        return [read_manifest(out, folder, number, labeller.identity) for number in range(len(folder.shards))]


def show(manifests: list[dict[str, Any]], out: str) -> None:
    """Say how many images have labels, what was dropped, and what is suspicious."""
    dropped: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for manifest in manifests:
        dropped.update({reason: found["count"] for reason, found in manifest["dropped"].items()})
        flags.update({reason: len(numbers) for reason, numbers in manifest["flags"].items()})
    labelled, count = (sum(manifest[key] for manifest in manifests) for key in ("labelled", "count"))
    console.print(f"{labelled} of {count} images have pseudo labels in {out}.", soft_wrap=True)
    for title, reasons in (("without label", dropped), ("flagged", flags)):
        if reasons:
            found = ", ".join(f"{number} x {reason}" for reason, number in reasons.most_common())
            console.print(f"{title}: {found}.", soft_wrap=True)
