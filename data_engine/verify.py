"""`depth-anything verify`: reads shards back and says whether they can be trusted; the exit status says it too.

Every shard: the index agrees with the tar, each sample with its checksum, keys are unique, the archive has its end.
Deep: every image and label decodes, a label has the shape of its image and is not dirty (`doctor`, `agreement`).
Pseudo labels: counts, and by the manifest that the images are those that were labelled; deep, also their keys.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from data_engine.leaks.command import REASON as TEST_IMAGE
from data_engine.processes import ordered_map
from data_engine.qa.checks import Findings, check_shard, odd_scales
from data_engine.qa.dirty_labels import Limits
from data_engine.qa.page import write_page
from data_engine.qa.sheet import contact_sheet
from depth_anything_train.command import build, command
from depth_anything_train.data.exclusions import BAD_KEYS_FILE, BadKey, read_bad_keys, write_bad_keys
from depth_anything_train.data.folders import find_shards, images_of, read_info
from depth_anything_train.data.remote import AnyPath, RemotePath, as_path
from depth_anything_train.data.schema import PSEUDO_LABELS
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.runtime import ProgressBar, UserError, console, write_bytes

SHOWN_PROBLEMS = 20

ENOUGH_PAIRS, SOUND_AGREEMENT = 20, 0.7
"""A folder of so many pairs whose mean agreement is lower is suspected as a whole; see `data_engine.qa.agreement`."""


@command("verify")
def main(cfg: DictConfig) -> None:
    """Check a folder of shards; exit status 1 if anything is wrong that training would meet."""
    if cfg.bad_keys and not cfg.deep:
        raise UserError("Expected deep=true with bad_keys=true: what is not decoded cannot be listed as bad.")
    folder = as_path(cfg.shards)
    if cfg.bad_keys and isinstance(folder, RemotePath):
        raise UserError(f"bad_keys=true writes {BAD_KEYS_FILE} into the folder: expected a folder, but came {folder}.")
    others = lines_of_others(folder) if cfg.bad_keys and isinstance(folder, Path) else []
    findings = verify(folder, deep=cfg.deep, workers=cfg.workers, limits=build(cfg.limits))
    show(findings, folder)
    if cfg.sheet and not findings.wrong:
        write_bytes(cfg.sheet, contact_sheet(ShardFolder(folder), cfg.num_samples, cfg.seed))
        console.print(f"Contact sheet: {cfg.sheet}")
    if cfg.page:
        write_page(
            str(folder),
            Path(cfg.page),
            problems=findings.wrong,
            bad_keys=findings.bad,
            num_shards=cfg.page_shards,
            num_labels=cfg.page_labels,
            num_samples=cfg.num_samples,
            seed=cfg.seed,
            workers=cfg.workers,
        )
        console.print(f"Page: {cfg.page}", soft_wrap=True)
    if cfg.bad_keys and isinstance(folder, Path):
        write_bad_keys(folder, [*others, *findings.bad])
        kept = f", {len(others)} of them kept from before" if others else ""
        console.print(f"{len(others) + len(findings.bad)} lines in {folder / BAD_KEYS_FILE}{kept}.", soft_wrap=True)
    elif findings.bad:
        console.print(f"bad_keys=true lists them in {BAD_KEYS_FILE}, and training leaves listed samples out.")
    if findings.problems if cfg.bad_keys else findings.wrong:
        raise SystemExit(1)


def lines_of_others(folder: Path) -> list[BadKey]:
    """What the folder's list says that `verify` did not find: copies of test images, and lines written by hand.

    `verify` always states the digest of the shard, which nobody does by hand. Lines about other shards than there are
    now are left out, for training would refuse the whole list.

    Raises:
        UserError: a line that cannot be read.
    """
    kept, lost = [], 0
    digests: dict[str, str] = {}
    for one in read_bad_keys(folder):
        if one.digest and one.reason != TEST_IMAGE:
            continue
        if one.shard not in digests:
            with suppress(UserError):  # no such shard, or a damaged one
                digests[one.shard] = Shard(folder / one.shard).digest
        if one.shard in digests and one.digest in ("", digests[one.shard]):
            kept.append(one)
        else:
            lost += 1
    if lost:
        about = f"{lost} lines of {folder / BAD_KEYS_FILE} are about other shards than there are now and are left out"
        console.print(f"{about}; run `leaks exclude=true` again if test images were among them.", soft_wrap=True)
    return kept


def verify(
    shards: str | AnyPath, *, deep: bool = True, workers: int | None = None, limits: Limits | None = None
) -> Findings:
    """Check all shards of a folder.

    Args:
        shards: folder or address of labelled, image or pseudo-label shards.
        deep: decode images and labels; else index, checksums and keys only.
        workers: processes; None is one a core, 0 works in this process.
        limits: when a label counts as dirty; None takes the defaults.

    Raises:
        UserError: there is nothing to check: no folder, no shards, or not finished.
    """
    limits = limits or Limits()
    folder, tars, _ = find_shards(shards)
    info = read_info(folder)
    total, images = Findings(), None
    if info["kind"] == PSEUDO_LABELS:
        images, wanted = _find_images(images_of(folder, info))
        total.problems += _missing_partners({tar.name for tar in tars}, wanted, images)
    tasks = [(tar, info["kind"], images, deep, limits) for tar in tars]
    with ProgressBar("verify", len(tars)) as bar:
        for findings in ordered_map(check_shard, tasks, workers):
            total.add(findings)
            bar.advance()
    total.bad += odd_scales(total.scales, limits)
    total.bad.sort(key=lambda bad: (bad.shard, bad.number))
    expected = info.get("count", total.samples)
    if not total.wrong and expected != total.samples:
        total.problems.append(f"Expected {expected} samples by dataset.json, but there are {total.samples}.")
    return total


def _find_images(address: AnyPath) -> tuple[AnyPath, set[str]]:
    """The folder of the image shards and their names; none where there is no such folder."""
    try:
        images, tars, _ = find_shards(address)
    except UserError:
        return address, set()
    return images, {tar.name for tar in tars}


def _missing_partners(labelled: set[str], wanted: set[str], images: AnyPath) -> list[str]:
    """Label shards without image shard, and the other way round."""
    return [
        f"{name}: expected image shard {images / name}, which does not exist." for name in sorted(labelled - wanted)
    ] + [
        f"{name}: this image shard of {images} has no labels; run `label` again." for name in sorted(wanted - labelled)
    ]


def show(findings: Findings, folder: AnyPath) -> None:
    """Print a table of what was read, then what is wrong and what is suspected."""
    table = Table("", str(folder), show_edge=False)
    table.add_row("samples", str(findings.samples))
    if findings.labels:
        table.add_row("labels decoded", str(findings.labels))
        table.add_row("valid pixels, mean", f"{findings.valid_share / findings.labels:.1%}")
        table.add_row("disparity", f"{findings.lowest:.4g} to {findings.highest:.4g}")
        table.add_row("labels without a valid pixel", str(findings.all_invalid))
        table.add_row("constant labels", str(findings.constant))
    if findings.compared:
        table.add_row("agreement of images and labels", f"{findings.agreement:.2f} (0.5 is chance)")
    for reason, count in sorted(Counter(bad.reason for bad in findings.bad).items()):
        table.add_row(reason, str(count))
    table.add_row("problems", str(len(findings.wrong)))
    console.print(table)
    if findings.compared >= ENOUGH_PAIRS and findings.agreement < SOUND_AGREEMENT:
        _print_some(["labels fit their own images hardly better than others'; are they matched rightly?"], "suspected")
    _print_some(findings.wrong, "wrong")
    _print_some(findings.suspected, "suspected")


def _print_some(sentences: list[str], what: str) -> None:
    for sentence in sentences[:SHOWN_PROBLEMS]:
        console.print(f"{what}: {sentence}", style="red" if what == "wrong" else "yellow", soft_wrap=True)
    if (more := len(sentences) - SHOWN_PROBLEMS) > 0:
        console.print(f"... and {more} more.")
