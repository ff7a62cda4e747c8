"""Which labels a folder holds: dataset.json says so before the first shard, and every labelling keeps to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from data_engine.labelling.labeller import ShardLabeller
from data_engine.labelling.manifest import find_manifest
from depth_anything_train.data.schema import DATASET_FILE, PSEUDO_LABELS, SCHEMA
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.files import create_json, read_json, write_json
from depth_anything_train.runtime import UserError, differences

IDENTITY = ("schema", "kind", "images", "teacher", "settings")


@contextmanager
def claim(out: Path, images: ShardFolder, labeller: ShardLabeller) -> Iterator[None]:
    """Before its first shard, write what a folder will hold; later, make sure that it is the same.

    A folder is free for other labels while it has none and nobody is at work in it: its run ended before its first
    shard. Whoever works has a shared lock on dataset.json; on a file system without locks a folder is never free.

    Args:
        out: folder of the labels.
        images: the image shards, wherever they lie now.
        labeller: teacher and settings.

    Raises:
        UserError: it was begun with another configuration or other images, or holds something else, perhaps the images
            themselves.
    """
    description = {
        "schema": SCHEMA,
        "kind": PSEUDO_LABELS,
        "source": str(images.info.get("source", images.path.name)),
        "images": os.path.relpath(images.path, out) if isinstance(images.path, Path) else str(images.address),
        "teacher": labeller.teacher.hash,
        "settings": labeller.config,
        # For the record of models that learn from these labels.
        "teacher_record": {"hash": labeller.teacher.hash, **labeller.teacher.record},
    }
    mark = out / DATASET_FILE
    if not mark.exists():
        names = [path.name for path in out.iterdir() if not path.name.startswith(".")]
        tars = [name for name in names if name.endswith(".tar")]
        others = [name for name in names if not name.endswith((".tar", ".idx", ".json"))]
        if not _are_known(tars, out, images, labeller) if tars else others:
            raise UserError(
                f"Expected an empty folder or labels in out={out}, but it holds {min(tars or others)}; choose another."
            )
        create_json(mark, description)
    if different := _different(mark, description):
        if not _has_labels(out):
            _replace_unused(mark, description)
        elif different == ["images"] and _are_labelled_here(out, images, labeller):
            write_json(mark, {**read_json(mark), "images": description["images"]})
    with _open_shared(mark):
        different = _different(mark, description)
        if different == ["images"]:
            raise UserError(
                f"{out} holds labels of other images ({read_json(mark).get('images')}) than those in {images.path}; "
                "choose another out=."
            )
        if different:
            told = [f"{key}{_differing(read_json(mark).get(key), description[key])}" for key in different]
            raise UserError(
                f"{out} was begun with different {', '.join(told)}; two kinds of labels are never mixed: "
                "choose another out= or delete that folder."
            )
        yield


def _different(mark: Path, description: dict[str, Any]) -> list[str]:
    found = read_json(mark, keys=("schema",))
    return sorted(key for key in IDENTITY if found.get(key) != description[key])


def _differing(found: Any, wanted: Any) -> str:
    """Of settings those that differ, in parentheses."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return ""
    return f" ({', '.join(f'{key} was {before}, is {now}' for key, before, now in differences(found, wanted))})"


def _has_labels(out: Path) -> bool:
    return any(path.name != DATASET_FILE for pattern in ("*.tar", "*.json") for path in out.glob(pattern))


def _are_known(tars: list[str], out: Path, images: ShardFolder, labeller: ShardLabeller) -> bool:
    """Whether tars without a dataset.json, which somebody deleted, are the labels that are to be made."""
    try:
        return all((out / tar).with_suffix(".json").exists() for tar in tars) and _are_labelled_here(
            out, images, labeller
        )
    except UserError:
        return False


def _are_labelled_here(out: Path, images: ShardFolder, labeller: ShardLabeller) -> bool:
    """Whether these images are those of the labels, by their content.

    Raises:
        UserError: they have their names, and changed.
    """
    numbers = {tar.stem: number for number, tar in enumerate(images.shards)}
    labelled = [mark.stem for mark in out.glob("*.json") if mark.name != DATASET_FILE]
    return set(labelled) <= numbers.keys() and all(
        find_manifest(out, images, numbers[name], labeller.identity) is not None for name in labelled
    )


def _replace_unused(mark: Path, description: dict[str, Any]) -> None:
    """Replace a dataset.json, unless somebody works by it."""
    with open(mark, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody does, or nobody knows: a file system without locks
            return
        if _is_at(mark, file) and not _has_labels(mark.parent):
            write_json(mark, description)


def _open_shared(mark: Path) -> IO[bytes]:
    """Open a dataset.json that nobody replaces while it is open."""
    while True:
        file = open(mark, "rb")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        if _is_at(mark, file):
            return file
        file.close()


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still has this name."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
