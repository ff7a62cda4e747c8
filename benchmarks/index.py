"""62 million samples in 6,200 shards: how long it takes to open them, to enter the order anywhere, and how much memory.

    python benchmarks/index.py [samples] [shards]

The indices are real (20 bytes a sample, 1.24 GB in all, in a temporary folder); the tars are sparse files of the right
length, whose zeros agree with the checksums. A process of its own, for each order, opens the folder and reads a batch
in the middle of the third epoch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xxhash

from depth_anything_train.data.index import Entry, pack_index
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.order import StepBatches, Stream, make_order
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.tar import END_OF_ARCHIVE

SAMPLE_BYTES = 10_240
SLOTS = 128


def write(folder: Path, samples: int, shards: int) -> None:
    """Sparse tars with real indices; shards of equal count are equal."""
    checksum = xxhash.xxh3_64_intdigest(bytes(SAMPLE_BYTES))
    indices: dict[int, bytes] = {}
    for number, count in enumerate(np.diff(np.arange(shards + 1) * samples // shards).tolist()):
        size = count * SAMPLE_BYTES + len(END_OF_ARCHIVE)
        if count not in indices:
            entries = [Entry(place * SAMPLE_BYTES, SAMPLE_BYTES, checksum) for place in range(count)]
            indices[count] = pack_index(entries, size)
        tar = folder / f"{number:05d}.tar"
        with open(tar, "wb") as file:
            file.truncate(size)
        index_path(tar).write_bytes(indices[count])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(folder: Path, group: int | None) -> None:
    before, start = resident_mb(), time.perf_counter()
    shards = ShardFolder(folder)
    opened = time.perf_counter()
    stream = Stream(make_order([np.diff(shards.starts).tolist()], name="unlabelled", shards=group), SLOTS)
    step = int(2.5 * len(shards)) // SLOTS
    batches = iter(StepBatches({"unlabelled": stream}, steps=step + 10**6, seed=0, start_step=step))
    slots = next(batches)
    for slot in slots:
        shards[slot.index]
    done = time.perf_counter()
    for _ in range(1000):
        next(batches)
    each = (time.perf_counter() - done) / 1000
    name = "all samples" if group is None else f"groups of {group} shards"
    print(
        f"  {name:<20} opened in {opened - start:.2f} s, first batch of {SLOTS} read in {done - opened:.2f} s (from "
        f"{len({shards.locate(slot.index)[0] for slot in slots})} shards), order of the next {1000 * each:.2f} ms, "
        f"memory + {resident_mb() - before:.0f} MB",
        flush=True,
    )


def main() -> None:
    samples, shards = [int(given) for given in sys.argv[1:]] + [62_000_000, 6_200][len(sys.argv) - 1 :]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write(Path(folder), samples, shards)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.idx"))
        written = f"{size / 1e9:.2f} GB of indices written in {time.perf_counter() - start:.0f} s"
        print(f"{samples:,} samples in {shards:,} shards, {written}", flush=True)
        for group in ("0", "10"):
            subprocess.run([sys.executable, __file__, "measure", folder, group], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]) or None)
    else:
        main()
