"""`depth-anything leaks`: which training images are also in a test set; the exit status says it too."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Table

from data_engine.leaks.page import render
from data_engine.leaks.search import Leak, LeakReport, Limits, find_leaks, open_images
from depth_anything_train.command import command
from depth_anything_train.data.exclusions import BAD_KEYS_FILE, BadKey, read_bad_keys, write_bad_keys
from depth_anything_train.data.remote import AnyPath
from depth_anything_train.files import csv_text, write_bytes
from depth_anything_train.runtime import UserError, console

OF = " of "
REASON = "test_image"
"""Under which a copy of a test image stands in bad_keys.jsonl."""


@command("leaks")
def main(cfg: DictConfig) -> None:
    """Look for test images among training images; exit status 1 if there are any."""
    out, limits = Path(cfg.out).expanduser(), Limits(cfg.max_distance, cfg.min_correlation)
    train, test = ([str(name)] if isinstance(name, str) else list(map(str, name)) for name in (cfg.train, cfg.test))
    if cfg.exclude:
        for name in train:
            _local(name)  # refused before the search
        contents = {open_images(name).content for name in train}
        if both := [name for name in test if open_images(name).content in contents]:
            raise UserError(f"Expected other images in test than in train for exclude=true, but got {both[0]} in both.")
    report = find_leaks(train, test, out, limits=limits, workers=cfg.workers)
    write_csv(out / "leaks.csv", report.leaks)
    write_bytes(out / "leaks.html", render(report, cfg.num_pairs).encode())
    show(report, out)
    if cfg.exclude:
        exclude(report.leaks, train, test)
    if report.leaks:
        raise SystemExit(1)


def write_csv(path: Path, leaks: Iterable[Leak]) -> None:
    """One line a pair, with a header."""
    write_bytes(path, csv_text([field.name for field in fields(Leak)], map(asdict, leaks)).encode())


def show(report: LeakReport, out: Path) -> None:
    """Print what was compared and how many copies each training folder has of each test folder."""
    table = Table("", "images", show_edge=False)
    table.add_row("training images", str(report.train_images))
    table.add_row("test images", str(report.test_images))
    for reason, count in sorted(report.skipped.items()):
        table.add_row(f"skipped: {reason}", str(count))
    table.add_row("pairs near by hash", str(report.near))
    for (train, test), count in Counter((leak.train, leak.test) for leak in report.leaks).items():
        table.add_row(f"copies of {test} in {train}", str(count), style="red")
    console.print(table)
    console.print(f"{len(report.leaks)} copies: {out / 'leaks.csv'}, {out / 'leaks.html'}", soft_wrap=True)


def exclude(leaks: Iterable[Leak], train: Iterable[str], test: Iterable[str]) -> None:
    """Put the copies on the bad-key lists of the training folders, replacing what earlier calls found of these tests.

    Raises:
        UserError: a folder is not on this machine.
    """
    # A line for each test folder: a later call for one of them takes its own away.
    by_folder: dict[Path, dict[tuple[str, int, str], BadKey]] = {_local(name): {} for name in train}
    for leak in leaks:
        folder, place = open_images(leak.train), _place(open_images(leak.test).path)
        digest = next(folder.digest(n) for n, path in enumerate(folder.shards) if path.name == leak.train_shard)
        message = f"copy of {leak.test_shard} {leak.test_key}{OF}{place}"
        bad = BadKey(leak.train_shard, leak.train_number, leak.train_key, REASON, message, digest)
        by_folder[_local(leak.train)].setdefault((bad.shard, bad.number, place), bad)
    tested = {_place(open_images(name).path) for name in test}
    for path, found in by_folder.items():
        listed = list(read_bad_keys(path))
        others = [one for one in listed if one.reason != REASON or _place(one.message.rpartition(OF)[2]) not in tested]
        write_bad_keys(path, chain(others, found.values()))
        if stay := sum(one.reason == REASON for one in others):
            console.print(f"{stay} lines of {path / BAD_KEYS_FILE} about other test sets stay.", soft_wrap=True)


def _place(folder: str | AnyPath) -> str:
    """A test folder, however it is written, as it ends the message of a line."""
    return str(folder) if "://" in str(folder) else os.path.realpath(str(folder))


def _local(name: str) -> Path:
    path = open_images(name).path
    if not isinstance(path, Path):
        raise UserError(
            f"Expected folders of this machine for exclude=true, but {path} is not; copy leaks.csv instead."
        )
    return path
