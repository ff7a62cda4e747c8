"""What a folder of shards contains, local or remote, before any is opened: its tars, and their description."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from depth_anything_train.data.remote import AnyPath, RemotePath, as_path, join, list_folder
from depth_anything_train.data.schema import (
    DATASET_FILE,
    IMAGES,
    KINDS,
    PACKED_SCHEMA,
    PSEUDO_LABELS,
    SCHEMA,
    UNFINISHED_FILE,
)
from depth_anything_train.files import read_json, require_folder
from depth_anything_train.runtime import UserError


def find_shards(path: str | AnyPath) -> tuple[AnyPath, list[AnyPath], frozenset[str]]:
    """A folder, its tars in the order of their names, and the names of all its files.

    Raises:
        UserError: no such folder, no tars, or an address that cannot be read.
    """
    folder = as_path(path)
    files: Mapping[str, AnyPath]
    if isinstance(folder, RemotePath):
        folder, files = list_folder(folder)
    else:
        local = folder = require_folder(folder, what="shards")
        with os.scandir(local) as entries:
            found = list(entries)
        files = {entry.name: local / entry.name for entry in found if entry.is_file()}
        if broken := [
            entry.path for entry in found if entry.is_symlink() and _is_shard(entry.name) and not entry.is_file()
        ]:
            raise UserError(f"{min(broken)} is a link to what does not exist; mount it, or delete the link.")
    shards = [files[name] for name in sorted(files) if _is_shard(name)]
    if not shards:
        raise UserError(f"Expected shards (*.tar) in {folder}, but there are none; was `prepare` run?")
    return folder, shards, frozenset(files)


def _is_shard(name: str) -> bool:
    return name.endswith(".tar") and not name.startswith(".")


def missing_shards(info: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    """The shards, by the names that `prepare` gives them, that a folder lacks of the number in its dataset.json.

    One after the other, because a damaged dataset.json may name any number.

    Args:
        info: content of dataset.json.
        names: names of the files that are there.
    """
    here = {name for name in names if _is_shard(name)}
    wanted = info.get("shards", len(here))
    if wanted != len(here):
        yield from (name for name in (f"{number:05d}.tar" for number in range(wanted)) if name not in here)


def read_info(folder: AnyPath) -> dict[str, Any]:
    """Content of dataset.json; a folder of tars without one counts as images of others.

    Raises:
        UserError: not finished, damaged, or of another schema.
    """
    if not (folder / DATASET_FILE).exists():
        if (folder / UNFINISHED_FILE).exists():
            raise UserError(
                f"The shards in {folder} are not finished; run the same `prepare` again and it continues, "
                "with a larger max_bad_share= if that stopped it."
            )
        return {"schema": SCHEMA, "kind": IMAGES, "source": folder.name}
    info: dict[str, Any] = read_json(folder / DATASET_FILE, keys=("schema",))
    if info.get("schema") not in (SCHEMA, PACKED_SCHEMA):
        found = info.get("schema")
        raise UserError(
            f"Expected schema {SCHEMA} or {PACKED_SCHEMA} of shards in {folder}, but got {found}; update the program."
        )
    if info.get("kind") not in KINDS:
        raise UserError(f"{folder / DATASET_FILE} is damaged: it says kind {info.get('kind')!r}; write it again.")
    for name, kind in (("shards", int), ("count", int), ("images", str | None)):
        if name in info and not isinstance(info[name], kind):
            raise UserError(f"{folder / DATASET_FILE} is damaged: it says {name} {info[name]!r}; write it again.")
    return info


def images_of(folder: AnyPath, info: Mapping[str, Any]) -> AnyPath:
    """Where the images lie: in the folder itself, or for pseudo labels where its dataset.json says.

    Raises:
        UserError: pseudo labels that do not name their images, or whose images are no longer there.
    """
    if info["kind"] != PSEUDO_LABELS:
        return folder
    if not info.get("images"):
        raise UserError(f"Expected dataset.json of {folder} to name its images, but it does not; label again.")
    images = join(folder, info["images"])
    if isinstance(images, Path) and not images.is_dir():
        raise UserError(
            f"Expected the images of {folder} in {images}, which does not exist; if they moved, write where they are "
            f'as "images" into {folder / DATASET_FILE}.'
        )
    return images
