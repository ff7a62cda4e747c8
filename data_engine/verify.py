"""`depth-anything verify`: reads shards back and says whether they can be trusted; the exit status says it too.

Every shard: the index agrees with the tar, each sample with its checksum, keys are unique, the archive has its end.
Deep: every image and label decodes, a label has the shape of its image and is not dirty (`qa.dirty_labels`), and labels
belong to their images (`qa.agreement`).
Pseudo labels: counts, and by the manifest that the images are those that were labelled; deep, also their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from data_engine.leaks.command import REASON as TEST_IMAGE
from data_engine.processes import ordered_map
from data_engine.qa.checks import check_shard
from data_engine.qa.dirty_labels import Limits
from data_engine.qa.findings import Findings, Scales, odd_scales
from data_engine.qa.page import require_depth, write_page
from data_engine.qa.sheet import contact_sheet
from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.data.exclusions import BAD_KEYS_FILE, BadKey, read_bad_keys, writing_bad_keys
from depth_anything_train.data.folders import find_shards, images_of, missing_shards, read_info
from depth_anything_train.data.remote import AnyPath, RemotePath, as_path
from depth_anything_train.data.schema import DATASET_FILE, PSEUDO_LABELS
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.files import require_folder, require_writable, write_bytes
from depth_anything_train.runtime import ProgressBar, UserError, console

SHOWN_PROBLEMS = 20

ENOUGH_PAIRS, SOUND_AGREEMENT = 20, 0.7
"""A folder of so many pairs whose mean agreement is lower is suspected as a whole; see `data_engine.qa.agreement`."""


@command("verify")
def main(cfg: DictConfig) -> None:
    """Check a folder of shards; exit status 1 if anything is wrong that training would meet."""
    folder = as_path(cfg.shards)
    check_outputs(cfg, folder)
    kept = 0
    if cfg.bad_keys and isinstance(folder, Path):
        findings, kept = list_bad_keys(require_folder(folder, what="shards"), cfg.workers, build(cfg.limits))
    else:
        findings = verify(folder, deep=cfg.deep, workers=cfg.workers, limits=build(cfg.limits))
    show(findings, folder)
    write_pictures(cfg, findings, folder)
    bad = sum(tally.count for tally in (*findings.bad.values(), *findings.suspected.values()))
    if cfg.bad_keys:
        before = f", {kept} of them kept from before" if kept else ""
        console.print(f"{kept + bad} lines in {folder / BAD_KEYS_FILE}{before}.", soft_wrap=True)
    elif bad:
        about = f"bad_keys=true lists them in {BAD_KEYS_FILE}, and training leaves listed samples out."
        console.print(about, soft_wrap=True)
    if findings.num_wrong and read_info(folder)["kind"] == PSEUDO_LABELS:
        console.print("Labels that are damaged are made again by the same `label` once their NAME.json is deleted.")
    wrong = len(findings.problems) if cfg.bad_keys else findings.num_wrong  # training leaves out what is listed
    if wrong:
        raise SystemExit(1)


def check_outputs(cfg: DictConfig, folder: AnyPath) -> None:
    """Refuse what could not be written at the end, before shards are read for hours.

    Raises:
        UserError: it cannot be written there, or there will be nothing to write.
    """
    if cfg.bad_keys and not cfg.deep:
        raise UserError("Expected deep=true with bad_keys=true: what is not decoded cannot be listed as bad.")
    if cfg.bad_keys and isinstance(folder, RemotePath):
        raise UserError(f"bad_keys=true writes {BAD_KEYS_FILE} into the folder: expected a folder, but got {folder}.")
    if cfg.page:
        require_depth(folder)
    for key in ("page", "sheet"):
        if cfg[key]:
            if not isinstance(cfg[key], str) or Path(cfg[key]).is_dir():
                raise UserError(f"Expected a file to write as {key}, such as labels.html, but got {cfg[key]}.")
            require_writable(Path(cfg[key]).parent, key)


def write_pictures(cfg: DictConfig, findings: Findings, folder: AnyPath) -> None:
    """Write the contact sheet and the page that were asked for."""
    if cfg.sheet and not findings.num_wrong:
        write_bytes(cfg.sheet, contact_sheet(ShardFolder(folder), cfg.num_samples, cfg.seed))
        console.print(f"Contact sheet: {cfg.sheet}")
    if cfg.page:
        write_page(
            str(folder),
            Path(cfg.page),
            findings=findings,
            num_shards=cfg.page_shards,
            num_labels=cfg.page_labels,
            num_samples=cfg.num_samples,
            seed=cfg.seed,
            workers=cfg.workers,
        )
        console.print(f"Page: {cfg.page}", soft_wrap=True)


def list_bad_keys(folder: Path, workers: int | None, limits: Limits) -> tuple[Findings, int]:
    """Verify a folder and replace its list; also how many lines of others on it are kept."""
    kept = 0
    with writing_bad_keys(folder) as write:
        for line in lines_of_others(folder):
            write(line)
            kept += 1
        return verify(folder, workers=workers, limits=limits, on_bad=write), kept


def lines_of_others(folder: Path) -> Iterator[BadKey]:
    """What the folder's list says that `verify` did not find: copies of test images, and lines written by hand.

    `verify` always states the digest of the shard, which nobody does by hand. Lines about other shards than there are
    now are left out, for training would refuse the whole list.

    Raises:
        UserError: a line that cannot be read.
    """
    lost = 0
    digests: dict[str, str] = {}
    for one in read_bad_keys(folder):
        if one.digest and one.reason != TEST_IMAGE:
            continue
        if one.shard not in digests:
            with suppress(UserError):  # no such shard, or a damaged one
                digests[one.shard] = Shard(folder / one.shard).digest
        if one.shard in digests and one.digest in ("", digests[one.shard]):
            yield one
        else:
            lost += 1
    if lost:
        about = f"{lost} lines of {folder / BAD_KEYS_FILE} are about other shards than there are now and are left out"
        console.print(f"{about}; run `leaks exclude=true` again if test images were among them.", soft_wrap=True)


def verify(
    shards: str | AnyPath,
    *,
    deep: bool = True,
    workers: int | None = None,
    limits: Limits | None = None,
    on_bad: Callable[[BadKey], None] = lambda bad: None,
) -> Findings:
    """Check all shards of a folder, in memory that does not grow with what is wrong with them.

    Args:
        shards: folder or address of labelled, image, pseudo-label or segmented shards.
        deep: decode images and labels; else index, checksums and keys only.
        workers: processes; None is one a core, 0 works in this process.
        limits: when a label counts as dirty; None takes the defaults.
        on_bad: told of every bad or suspected sample: shard by shard, and odd scales at the end.

    Raises:
        UserError: there is nothing to check: no folder, no shards, or not finished.
    """
    limits = limits or Limits()
    folder, tars, _ = find_shards(shards)
    info = read_info(folder)
    total, images = Findings(), None
    if info["kind"] == PSEUDO_LABELS:
        images, partners = _find_images(images_of(folder, info))
        total.problems += _missing_partners({tar.name for tar in tars}, partners, images)
    if isinstance(folder, RemotePath) and str(shards).endswith(".tar"):  # a pattern may leave some out
        info = {name: value for name, value in info.items() if name not in ("shards", "count")}
    missing = missing_shards(info, {tar.name for tar in tars})
    named = [f"{name}: expected this shard by {DATASET_FILE}, but it does not exist." for name in islice(missing, 100)]
    if next(missing, None):
        named.append(f"Expected {info['shards']} shards by {DATASET_FILE}, but there are {len(tars)}; 100 are named.")
    total.problems += named
    tasks = [(tar, info["kind"], images, deep, limits) for tar in tars]
    scales: dict[str, list[Scales]] = {}

    def found(bad: Iterable[BadKey]) -> None:
        for one in bad:
            total.add_bad(one)
            on_bad(one)

    with ProgressBar("verify", len(tars)) as bar:
        for shard in ordered_map(check_shard, tasks, workers):
            total.add(shard.statistics)
            total.problems += shard.problems
            found(shard.bad)
            for group, part in shard.scales.items():
                scales.setdefault(group, []).append(part)
            bar.advance()
    for parts in scales.values():
        found(odd_scales(folder, parts, limits))
    expected = info.get("count", total.samples)
    if not total.num_wrong and expected != total.samples:
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
    for reason, tally in sorted((*findings.bad.items(), *findings.suspected.items())):
        table.add_row(reason, str(tally.count))
    table.add_row("problems", str(findings.num_wrong))
    console.print(table)
    if findings.compared >= ENOUGH_PAIRS and findings.agreement < SOUND_AGREEMENT:
        sentence = "labels fit their own images hardly better than others'; are they matched rightly?"
        _print_some([sentence], 1, "suspected")
    _print_some(findings.wrong, findings.num_wrong, "wrong")
    _print_some(findings.doubts, findings.num_suspected, "suspected")


def _print_some(sentences: list[str], count: int, what: str) -> None:
    for sentence in sentences[:SHOWN_PROBLEMS]:
        console.print(f"{what}: {sentence}", style="red" if what == "wrong" else "yellow", soft_wrap=True)
    if (more := count - SHOWN_PROBLEMS) > 0:
        console.print(f"... and {more} more.")
