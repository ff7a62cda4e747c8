"""`depth-anything prepare`: a raw data set or a folder becomes shards that can be trusted.

Shard k holds items k*n to (k+1)*n, whatever the number of workers, so a run that was stopped continues with the
shards that are missing and ends with the same bytes. Items that cannot be used are skipped, counted and shown.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from omegaconf import DictConfig
from rich.table import Table

from data_engine.ingest.base import Ingest
from data_engine.packing import PackedLabels
from data_engine.processes import ordered_map
from data_engine.writer import ShardWriter
from depth_anything_train.building import build
from depth_anything_train.command import command
from depth_anything_train.data.index_files import index_path, read_header
from depth_anything_train.data.schema import DATASET_FILE, LABELLED, META, SCHEMA, UNFINISHED_FILE, BadSample, BadShard
from depth_anything_train.files import create_json, read_json, remove_leftovers, require_writable, write_json
from depth_anything_train.runtime import ProgressBar, UserError, console, fingerprint, require_count, require_share

UNKNOWN = "unknown"
"""The licence of a sample that states none."""

HASHED_AT_ONCE = 100_000
"""Items between two steps of the progress bar."""

EXAMPLES = 3
"""How many messages are kept for each reason a sample was dropped."""

Result = TypeVar("Result")


class Report(TypedDict):
    """What happened to the items of a shard, or of all shards."""

    count: int
    drops: dict[str, int]
    examples: dict[str, list[str]]
    notes: dict[str, int]
    licences: dict[str, int]


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Write the shards of one data set."""
    ingest = build(cfg.dataset)
    prepare(
        PackedLabels(ingest) if cfg.pack_labels and ingest.kind == LABELLED else ingest,
        cfg.out,
        samples_per_shard=cfg.samples_per_shard,
        workers=cfg.workers,
        max_bad_share=cfg.max_bad_share,
        licence=cfg.licence,
    )


def prepare(
    ingest: Ingest,
    out: str | Path,
    *,
    samples_per_shard: int = 1000,
    workers: int | None = None,
    max_bad_share: float = 0.5,
    licence: str | None = None,
) -> dict[str, Any]:
    """Write all items of a data set as shards; continue where an earlier call was stopped.

    Args:
        ingest: the raw data.
        out: folder of the shards; made if missing.
        samples_per_shard: items a shard, dropped ones included.
        workers: processes; None is one a core, 0 works in this process. Does not change the bytes.
        max_bad_share: stop if a larger share of all items cannot be used.
        licence: licence of the samples that state none themselves, for the record of models that learn from them.

    Returns:
        The content of dataset.json: count, drops by reason and so on.

    Raises:
        UserError: nothing to read, too much of it bad, or `out` holds something else.
    """
    require_count("samples_per_shard", samples_per_shard)
    require_share("max_bad_share", max_bad_share)
    out = Path(out).expanduser()
    require_writable(out)
    items = ingest.items()
    configuration = [type(ingest).__qualname__, ingest.info(), samples_per_shard, hash_items(items)]
    identity = {"schema": getattr(ingest, "schema", SCHEMA), "kind": ingest.kind, "source": ingest.source}
    identity["fingerprint"] = fingerprint([identity, configuration])
    paths = [out / f"{number:05d}.tar" for number in range(-(-len(items) // samples_per_shard))]
    with _claimed(out, identity, paths):
        total = _write_missing(Missing(ingest, items, paths, samples_per_shard), workers, max_bad_share)
        _show(total, ingest.source, out)
        _stop_if_bad(total, len(items), ingest.source, max_bad_share)
        summary = {"count": total["count"], "shards": len(paths), "drops": total["drops"], "notes": total["notes"]}
        licences = Counter(total["licences"])
        licence = licence or getattr(ingest, "licence", None)
        if licence and UNKNOWN in licences:
            licences[licence] += licences.pop(UNKNOWN)
        content = {**ingest.info(), **identity, **summary, "licences": dict(licences)}
        write_json(out / DATASET_FILE, content)
    return content


def _write_missing(tasks: Missing, workers: int | None, max_bad_share: float) -> Report:
    """Write the shards that are missing and add up the reports of all."""
    paths, num_items, source = tasks.paths, len(tasks.items), tasks.ingest.source
    so_far = merge(read_json(path.with_suffix(".json")) for path in paths if is_written(path))
    bar = ProgressBar("prepare", num_items, done=so_far["count"] + sum(so_far["drops"].values()))
    with bar, closing(ordered_map(write_shard, tasks, workers)) as reports:
        for report in reports:
            so_far = merge([so_far, report])
            bar.advance(report["count"] + sum(report["drops"].values()))
            _stop_if_bad(so_far, num_items, source, max_bad_share)
    # Read again in the order of the shards: the same total whether or not the run was interrupted.
    return merge(read_json(path.with_suffix(".json")) for path in paths)


class Missing(Sequence[tuple[Ingest, Sequence[Any], Path]]):
    """Arguments of `write_shard` for each shard that is not written.

    Items are cut out when a shard's turn comes: ten million at once would fill the memory.
    """

    def __init__(self, ingest: Ingest, items: Sequence[Any], paths: Sequence[Path], samples_per_shard: int) -> None:
        self.ingest, self.items, self.paths, self.samples_per_shard = ingest, items, paths, samples_per_shard
        self.numbers = [number for number, path in enumerate(paths) if not is_written(path)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: Any) -> Any:
        first = self.numbers[position] * self.samples_per_shard
        items = self.items[first : first + self.samples_per_shard]
        return self.ingest, items, self.paths[self.numbers[position]]


def is_written(tar: Path) -> bool:
    """Whether a shard is there whole: its report, its index, which is written last, and a tar of the length it says."""
    try:
        return tar.exists() and tar.with_suffix(".json").exists() and read_header(tar) is not None
    except BadShard:
        return False


@contextmanager
def _claimed(out: Path, identity: dict[str, Any], paths: Sequence[Path]) -> Iterator[None]:
    """Mark `out` as belonging to this configuration and these items while they are written, or refuse it.

    If that ends without a sample, because nothing could be read as it was said to be, the folder is as it was before.
    """
    mark = out / UNFINISHED_FILE
    if not mark.exists():
        if (out / DATASET_FILE).exists() or any(out.glob("*.tar")):
            raise UserError(f"{out} holds shards that `prepare` did not write; choose another out=.")
        _writing(out, lambda: create_json(mark, identity))
    with open(mark, "r+b") as held:
        with suppress(OSError):  # a file system without locks: nobody clears the folder then
            fcntl.flock(held, fcntl.LOCK_SH)  # any number may write the same shards
        if (begun := read_json(mark)) != identity:
            unpacked = begun.get("schema", 0) < identity.get("schema", 0)
            hint = " Its labels are not packed: if that is all, pack_labels=false continues it." if unpacked else ""
            raise UserError(
                f"{out} was begun with another data set, other files or other settings; choose another out=, or delete "
                f"that folder.{hint}"
            )
        try:
            yield
        finally:
            remove_leftovers(out)
            with suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear_if_empty(mark, paths)


def _clear_if_empty(mark: Path, paths: Sequence[Path]) -> None:
    """Remove shards without a sample, if all are, and what says whose they are."""
    if not any(index_path(path).exists() and read_json(path.with_suffix(".json"))["count"] for path in paths):
        for path in paths:
            for file in (index_path(path), path, path.with_suffix(".json")):
                file.unlink(missing_ok=True)
        mark.unlink()


def hash_items(items: Sequence[Any]) -> str:
    """Hash of what all items say of themselves: another list, another hash."""
    digest = hashlib.sha256()
    with ProgressBar("hashing the list", None) as bar:  # a minute for ten million
        for first in range(0, len(items), HASHED_AT_ONCE):
            hashed = items[first : first + HASHED_AT_ONCE]
            for item in hashed:
                digest.update(repr(item).encode("utf-8", "surrogateescape"))
            bar.advance(len(hashed))
    return digest.hexdigest()


def write_shard(ingest: Ingest, items: Sequence[Any], path: Path) -> Report:
    """Write one shard and, before its index appears, its report `NAME.json`.

    Raises:
        UserError: the disk is full or cannot be written to.
    """
    return _writing(path.parent, lambda: _write_shard(ingest, items, path))


def _write_shard(ingest: Ingest, items: Sequence[Any], path: Path) -> Report:
    drops: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    with ShardWriter(path) as writer:
        for item in items:
            try:
                sample = ingest.load(item)
                writer.add(sample.key, sample.members)
            except BadSample as error:
                drops[error.reason] += 1
                if drops[error.reason] <= EXAMPLES:
                    examples.setdefault(error.reason, []).append(f"{item}: {error}")
                continue
            notes.update(sample.notes)
            licences[json.loads(sample.members.get(META, b"{}")).get("licence") or UNKNOWN] += 1
        report = Report(
            count=writer.count, drops=dict(drops), examples=examples, notes=dict(notes), licences=dict(licences)
        )
        write_json(path.with_suffix(".json"), report)
        writer.commit()
    return report


def _writing(folder: Path, write: Callable[[], Result]) -> Result:
    try:
        return write()
    except OSError as error:
        advice = "nothing finished is lost; fix the cause and run the same command again"
        raise UserError(f"Writing to {folder} failed ({error.strerror}); {advice}.") from None


def merge(reports: Iterable[Report]) -> Report:
    """Add up the reports of several shards."""
    total = Report(count=0, drops={}, examples={}, notes={}, licences={})
    for report in reports:
        total["count"] += report["count"]
        total["drops"] = dict(Counter(total["drops"]) + Counter(report["drops"]))
        total["notes"] = dict(Counter(total["notes"]) + Counter(report["notes"]))
        total["licences"] = dict(Counter(total["licences"]) + Counter(report.get("licences")))
        for reason, messages in report["examples"].items():
            total["examples"][reason] = [*total["examples"].get(reason, []), *messages][:EXAMPLES]
    return total


def _stop_if_bad(total: Report, num_items: int, source: str, max_bad_share: float) -> None:
    bad = sum(total["drops"].values())
    if bad > max_bad_share * num_items or bad == num_items:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(total["drops"].items()))
        example = next(iter(total["examples"].values()))[0]
        limit = f"more than max_bad_share={max_bad_share}" if bad < num_items else "which leaves nothing"
        fixed = " Write what you fix into another out=, or allow more with max_bad_share=." if total["count"] else ""
        raise UserError(
            f"{bad} of {num_items} items of {source} cannot be used, {limit}: {reasons}. First: {example}{fixed}"
        )


def _show(total: Report, source: str, out: Path) -> None:
    table = Table("", "items", "first examples")
    table.add_row("written", str(total["count"]), "")
    for reason, count in sorted(total["drops"].items()):
        table.add_row(f"dropped: {reason}", str(count), "\n".join(total["examples"][reason]))
    for note, count in sorted(total["notes"].items()):
        table.add_row(f"note: {note}", str(count), "")
    console.print(table)
    console.print(f"{total['count']} samples of {source} in {out}.", soft_wrap=True)
