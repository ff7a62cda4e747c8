"""`depth-anything verify`: reads shards back and says whether they can be trusted; the exit status says it too.

Every shard: the index agrees with the tar, each sample with its checksum, keys are unique, the archive has its end.
Deep: every image and label decodes, a label has the shape of its image. Pseudo labels: keys and counts of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.table import Table

from data_engine.prepare import ordered_map
from data_engine.sheet import contact_sheet
from depth_anything_train.command import command
from depth_anything_train.data.images import decode_image
from depth_anything_train.data.labels import check_shape, decode_label
from depth_anything_train.data.schema import IMAGES, LABELLED, PSEUDO_LABELS, BadSample, Record
from depth_anything_train.data.shards import Shard, ShardFolder, build_index, index_path, read_info
from depth_anything_train.runtime import (
    ProgressBar,
    UserError,
    console,
    read_json,
    require_folder,
    write_bytes,
)

SHOWN_PROBLEMS = 20


@dataclass
class Findings:
    """What was found in one shard, or in all of them.

    Attributes:
        problems: one sentence each; empty if all is well.
        samples: read and agreeing with their checksum.
        labels: decoded.
        all_invalid: labels without a valid pixel. In pseudo labels they stand for images that could not be used.
        constant: labels with one single value.
        valid_share: sum over labels of the share of valid pixels.
        lowest, highest: disparity over all valid pixels; 1 / m, or in the unit of the source.
    """

    problems: list[str] = field(default_factory=list)
    samples: int = 0
    labels: int = 0
    all_invalid: int = 0
    constant: int = 0
    valid_share: float = 0.0
    lowest: float = float("inf")
    highest: float = float("-inf")

    def add(self, other: Findings) -> None:
        """Add another shard's findings."""
        self.problems += other.problems
        for name in ("samples", "labels", "all_invalid", "constant", "valid_share"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

    def add_label(self, disparity: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Count one decoded label, (H, W)."""
        self.labels += 1
        self.valid_share += float(valid.mean())
        if not valid.any():
            self.all_invalid += 1
            return
        lowest, highest = float(disparity[valid].min()), float(disparity[valid].max())
        self.constant += lowest == highest
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)


@command("verify")
def main(cfg: DictConfig) -> None:
    """Check a folder of shards; exit status 1 if anything is wrong."""
    findings = verify(cfg.shards, deep=cfg.deep, workers=cfg.workers)
    show(findings, Path(cfg.shards))
    if cfg.sheet and not findings.problems:
        write_bytes(cfg.sheet, contact_sheet(ShardFolder(cfg.shards), cfg.num_samples, cfg.seed))
        console.print(f"Contact sheet: {cfg.sheet}")
    if findings.problems:
        raise SystemExit(1)


def verify(shards: str | Path, *, deep: bool = True, workers: int | None = None) -> Findings:
    """Check all shards of a folder.

    Args:
        shards: folder of labelled, image or pseudo-label shards.
        deep: decode images and labels; else index, checksums and keys only.
        workers: processes; None is one a core, 0 works in this process.

    Raises:
        UserError: there is nothing to check: no folder, no shards, or not finished.
    """
    folder = require_folder(shards, what="shards")
    info = read_info(folder)
    tars = sorted(file for file in folder.glob("[!.]*.tar") if file.is_file())
    if not tars:
        raise UserError(f"Expected shards (*.tar) in {folder}, but there are none; was `prepare` run?")
    if info["kind"] == PSEUDO_LABELS and not info.get("images"):
        raise UserError(f"Expected dataset.json of {folder} to name its images, but it does not; label again.")
    images = folder / info["images"] if info["kind"] == PSEUDO_LABELS else None
    total = Findings(problems=_missing_partners(tars, images) if images else [])
    with ProgressBar("verify", len(tars)) as bar:
        for findings in ordered_map(check_shard, [(tar, info["kind"], images, deep) for tar in tars], workers):
            total.add(findings)
            bar.advance()
    expected = info.get("count", total.samples)
    if not total.problems and expected != total.samples:
        total.problems.append(f"Expected {expected} samples by dataset.json, but there are {total.samples}.")
    return total


def _missing_partners(tars: list[Path], images: Path) -> list[str]:
    """Label shards without image shard, and the other way round."""
    labelled, wanted = {tar.name for tar in tars}, {tar.name for tar in images.glob("[!.]*.tar")}
    return [
        f"{name}: expected image shard {images / name}, which does not exist." for name in sorted(labelled - wanted)
    ] + [
        f"{name}: this image shard of {images} has no labels; run `label` again." for name in sorted(wanted - labelled)
    ]


def check_shard(tar: Path, kind: str, images: Path | None, deep: bool) -> Findings:
    """Check one shard; whatever is wrong with it is in the findings, never raised.

    Args:
        tar: the shard.
        kind: of the folder: `labelled`, `images` or `pseudo_labels`.
        images: folder of the image shards, for pseudo labels.
        deep: decode images and labels.
    """
    findings = Findings()
    try:
        # Tars of others have no index yet; ours without one were never finished.
        index = build_index(tar) if kind == IMAGES and not index_path(tar).exists() else None
        shard = Shard(tar, index)
        shard.check_index()
        partner = Shard(images / tar.name) if images and (images / tar.name).exists() else None
        if kind == PSEUDO_LABELS:
            findings.problems += _check_manifest(shard, partner)
    except UserError as error:
        findings.problems.append(f"{tar.name}: {error}")
        return findings
    keys: set[str] = set()
    for number in range(shard.count):
        try:
            record = shard.read(number)
            findings.samples += 1
            if record.key in keys:
                raise BadSample("duplicate_key", f"Key {record.key!r} comes twice.")
            keys.add(record.key)
            if partner is not None and number < partner.count:
                _check_key(record, partner.read(number))
            if deep:
                _check_content(record, kind, findings)
        except BadSample as error:
            findings.problems.append(f"{tar.name}, sample {number}: {error.reason}: {error}")
    return findings


def _check_manifest(shard: Shard, images: Shard | None) -> Iterator[str]:
    """A pseudo-label shard counts as done by its manifest, which names what it was made from."""
    name = shard.path.name
    mark = shard.path.with_suffix(".json")
    if not mark.exists():
        yield f"{name}: expected the manifest {mark.name}, which does not exist; run `label` again."
        return
    manifest = read_json(mark)
    if manifest.get("count") != shard.count or manifest.get("output") != shard.digest:
        yield f"{name}: the labels are not those of the manifest; delete {mark.name} and run `label` again."
    if images is not None and images.count != shard.count:
        yield f"{name}: {shard.count} labels for {images.count} images; delete {mark.name} and run `label` again."
    elif images is not None and manifest.get("input") != images.digest:
        yield f"{name}: the images changed after they were labelled; label into another folder."


def _check_key(record: Record, image: Record) -> None:
    if record.key != image.key:
        raise BadSample("wrong_key", f"Expected the label of {image.key!r}, but came that of {record.key!r}.")


def _check_content(record: Record, kind: str, findings: Findings) -> None:
    shape = None if kind == PSEUDO_LABELS else decode_image(record.image).shape[:2]
    if kind == IMAGES:
        return
    disparity, valid = decode_label(*record.label(), record.meta)
    findings.add_label(disparity, valid)
    if kind == LABELLED and not valid.any():
        raise BadSample("no_valid_pixel", f"The label of {record.key} has no valid pixel.")
    if shape is not None:
        check_shape(shape, disparity.shape)


def show(findings: Findings, folder: Path) -> None:
    """Print a table of what was read, then what is wrong."""
    table = Table("", str(folder), show_edge=False)
    table.add_row("samples", str(findings.samples))
    if findings.labels:
        table.add_row("labels decoded", str(findings.labels))
        table.add_row("valid pixels, mean", f"{findings.valid_share / findings.labels:.1%}")
        table.add_row("disparity", f"{findings.lowest:.4g} to {findings.highest:.4g}")
        table.add_row("labels without a valid pixel", str(findings.all_invalid))
        table.add_row("constant labels", str(findings.constant))
    table.add_row("problems", str(len(findings.problems)))
    console.print(table)
    for problem in findings.problems[:SHOWN_PROBLEMS]:
        console.print(f"wrong: {problem}", style="red", soft_wrap=True)
    if (more := len(findings.problems) - SHOWN_PROBLEMS) > 0:
        console.print(f"... and {more} more.")
