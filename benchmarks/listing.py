"""Time and memory of listing unlabelled images: what a set of ten million costs before its first shard.

    python benchmarks/listing.py [images]

Prints microseconds and bytes an image for files by name alone, beside a list of objects as it would be without arrays,
and the rate at which members of a tar and of a tar.gz are found on this disk. Each image of the archives has 20 kB.
"""

from __future__ import annotations

import gzip
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_engine.ingest.archives import Place, list_archive
from data_engine.ingest.base import make_key, stem, unique_keys
from data_engine.ingest.listing import Listing, Part, Photo
from data_engine.prepare import hash_items
from depth_anything_train.data.tar import END_OF_ARCHIVE, tar_bytes

IMAGE_BYTES = 20_000


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def timed(what: str, count: int, function: Callable[[], Any]) -> Any:
    """Call it, and print microseconds of work and bytes held, an image."""
    before, start = resident(), time.process_time()
    result = function()
    spent, held = time.process_time() - start, resident() - before
    print(f"{what:<44}{spent / count * 1e6:8.2f} us{held / count:8.0f} bytes an image")
    return result


def names(count: int) -> list[str]:
    """Paths as Google Landmarks has them."""
    return [f"{n % 16:x}/{n // 16 % 16:x}/{n // 256 % 16:x}/{n:016x}.jpg" for n in range(count)]


def as_files(count: int) -> Part:
    part = Part()
    for name in names(count):
        part.add_file(name)
    return part


def as_members(count: int) -> Part:
    part = Part("images_000.tar", "images_000/")
    for number, name in enumerate(names(count)):
        part.add_member(Place(name, 100_512 * number, 100_000))
    return part


def as_objects(count: int) -> list[Photo]:
    paths = names(count)
    keys = [make_key(stem(path)) for path in paths]
    return [Photo(*parts) for parts in zip(keys, paths, unique_keys(keys), strict=True)]


def slices(items: Listing) -> None:
    """What the main process does for its workers."""
    for first in range(0, len(items), 1000):
        pickle.dumps(items[first : first + 1000])


def archives(folder: Path, count: int) -> None:
    """Find the members of real archives."""
    data = np.random.default_rng(0).bytes(IMAGE_BYTES)
    with open(folder / "a.tar", "wb") as tar, gzip.open(folder / "a.tar.gz", "wb", 1) as packed:
        for file in (tar, packed):
            for number in range(count):
                file.write(tar_bytes(f"{number:016x}.jpg", data))
            file.write(END_OF_ARCHIVE)
    for name in ("a.tar", "a.tar.gz"):
        start = time.perf_counter()
        found = sum(1 for _ in list_archive(folder / name))
        spent = time.perf_counter() - start
        rate = found * IMAGE_BYTES / spent / 1e6
        print(f"{name:<44}{spent / found * 1e6:8.2f} us an image ({rate:,.0f} MB/s of images passed over)")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for what, make in (("files", as_files), ("members of a tar", as_members)):
        part = timed(f"{what}: names into arrays", count, lambda make=make: make(count))
        items = timed(f"{what}: keys that repeat", count, lambda part=part: Listing([part]))
        timed(f"{what}: hash of the list", count, lambda items=items: hash_items(items))
        timed(f"{what}: slices for workers", count, lambda items=items: slices(items))
    timed("files: as objects, without hash", count, lambda: as_objects(count))
    with tempfile.TemporaryDirectory() as folder:
        archives(Path(folder), min(count, 20_000))


if __name__ == "__main__":
    main()
