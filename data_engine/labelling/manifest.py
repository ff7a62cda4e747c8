"""The manifest of a label shard: the only mark that it is done, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from data_engine.writer import Written
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.files import read_json
from depth_anything_train.runtime import UserError

TYPES = {
    **dict.fromkeys(("count", "labelled"), int),
    **dict.fromkeys(("dropped", "flags"), dict),
    **dict.fromkeys(("input", "output", "teacher", "config"), str),
}


QUANTISER = {"codec": "dz16", "bits": 16}
MAX_EXAMPLES = 5  # keys of bad images named in a manifest, by reason


@dataclass
class Tally:
    """What happened to the images of a shard: keys of dropped ones, and numbers of flagged ones, by reason."""

    dropped: dict[str, list[str]] = field(default_factory=dict)
    flags: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, key: str, flags: Iterable[str], reason: str) -> None:
        """Note an image that was dropped for a reason, or for none, and that may be flagged."""
        if reason:
            self.dropped.setdefault(reason, []).append(key)
        for flag in flags:
            self.flags.setdefault(flag, []).append(number)


def describe(images: Shard, labels: Written, tally: Tally) -> dict[str, Any]:
    """What a manifest says of a shard of labels, beside how they were made."""
    dropped = {key: {"count": len(k), "examples": k[:MAX_EXAMPLES]} for key, k in tally.dropped.items()}
    return {
        "count": labels.count,
        "labelled": labels.count - sum(map(len, tally.dropped.values())),
        "dropped": dropped,
        "flags": tally.flags,
        "input": images.digest,
        "output": labels.digest,
        "keys": labels.keys,
        "bytes": labels.bytes,
        "xxh3": labels.xxh3,
        "code": metadata.version("depth-anything-train"),
        "quantiser": QUANTISER,
    }


def manifest_path(out: Path, tar: AnyPath) -> Path:
    """The manifest in `out` of the labels for an image shard."""
    return out / f"{tar.stem}.json"


def read_manifest(out: Path, images: ShardFolder, number: int, identity: dict[str, str]) -> dict[str, Any]:
    """The manifest of a finished shard, of this configuration and of these images.

    Args:
        out: folder of the label shards.
        images: the image shards.
        number: number of the shard.
        identity: teacher and config, as `ShardLabeller.identity`.

    Raises:
        UserError: there is none, it is damaged, or it is of another configuration or of other images.
    """
    mark = manifest_path(out, images.shards[number])
    found: dict[str, Any] = read_json(mark, keys=TYPES)
    if found["input"] != images.digest(number):
        raise UserError(f"The images changed since {mark} was written; label into another out=.")
    if different := sorted(key for key in identity if found[key] != identity[key]):
        raise UserError(f"{mark} was made with another {', '.join(different)}; label into another out=.")
    return found


def find_manifest(out: Path, images: ShardFolder, number: int, identity: dict[str, str]) -> dict[str, Any] | None:
    """The same, or None while the shard is not done."""
    try:
        return read_manifest(out, images, number, identity)
    except UserError:
        if manifest_path(out, images.shards[number]).exists():
            raise
        return None


def has_labels(mark: Path, manifest: dict[str, Any]) -> bool:
    """Whether the label shard that a manifest describes is there: index and length agree. Labels are not read."""
    try:
        return Shard(mark.with_suffix(".tar")).digest == manifest["output"]
    except UserError:
        return False
