"""62 million samples in 6,200 shards: how long it takes to open them, to enter the order anywhere, and how much memory.

    python benchmarks/index.py [samples] [shards]

The indices are real (20 bytes a sample, 1.24 GB in all, in a temporary folder); the tars are sparse files of the right
length, whose zeros agree with the checksums. A process of its own, for each order, opens the folder and reads a batch
in the middle of the third epoch. Two more open pseudo labels of these images and leave 3 % of the samples out: by the
flags in their manifests, and by a list of bad keys.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from depth_anything_train.data.exclusions import BadKey, write_bad_keys
from depth_anything_train.data.index import Entry, pack_index
from depth_anything_train.data.index_files import index_path
from depth_anything_train.data.order import StepBatches, Stream, make_order
from depth_anything_train.data.shards import ShardFolder
from depth_anything_train.data.sources import PseudoLabelSource
from depth_anything_train.data.tar import END_OF_ARCHIVE

SAMPLE_BYTES = 10_240
SLOTS = 128
LEFT_OUT = 0.03
FLAG = "flat"


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


def write_labels(folder: Path, images: Path) -> None:
    """A folder that passes for pseudo labels: tars and indices are the images' own, manifests little but flags."""
    opened = ShardFolder(images)
    rng, starts = np.random.default_rng(0), opened.starts
    folder.mkdir()
    info = {"schema": 1, "kind": "pseudo_labels", "images": "../images"}
    (folder / "dataset.json").write_text(json.dumps(info))
    for number, count in enumerate(np.diff(starts).tolist()):
        for suffix in ("tar", "idx"):
            os.link(images / f"{number:05d}.{suffix}", folder / f"{number:05d}.{suffix}")
        flags = {FLAG: np.flatnonzero(rng.random(count) < LEFT_OUT).tolist()}
        manifest = {"input": opened.digest(number), "output": opened.digest(number), "flags": flags}
        (folder / f"{number:05d}.json").write_text(json.dumps(manifest, indent=2))


def write_list(folder: Path) -> None:
    """List the samples that the manifests flag as bad keys."""
    opened = ShardFolder(folder)

    def lines() -> Iterator[BadKey]:
        for number, tar in enumerate(opened.shards):
            for sample in json.loads(tar.with_suffix(".json").read_text())["flags"][FLAG]:
                message = "Nearly all disparities are equal, 0.5012 to 0.5034."
                yield BadKey(tar.name, sample, f"{sample:09d}", FLAG, message, opened.digest(number))

    write_bad_keys(folder, lines())


def measure_left_out(folder: Path, skip: list[str]) -> None:
    before, start = resident_mb(), time.perf_counter()
    source = PseudoLabelSource([folder], skip=skip)
    opened, left_out = time.perf_counter(), source.folders[0].starts[-1] - len(source)
    for index in np.random.default_rng(1).integers(0, len(source), 10_000).tolist():
        source.locate(index)
    each = (time.perf_counter() - opened) / 10_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"  {'flagged' if skip else 'bad keys':<20} opened in {opened - start:.2f} s, {left_out:,} left out, a sample "
        f"found in {1e6 * each:.0f} us, memory + {resident_mb() - before:.0f} MB, at most + {peak - before:.0f} MB",
        flush=True,
    )


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
    with tempfile.TemporaryDirectory() as name:
        images, labels = Path(name) / "images", Path(name) / "labels"
        images.mkdir()
        start = time.perf_counter()
        write(images, samples, shards)
        size = sum(path.stat().st_size for path in images.glob("*.idx"))
        written = f"{size / 1e9:.2f} GB of indices written in {time.perf_counter() - start:.0f} s"
        print(f"{samples:,} samples in {shards:,} shards, {written}", flush=True)
        for group in ("0", "10"):
            subprocess.run([sys.executable, __file__, "measure", images, group], check=True)
        write_labels(labels, images)
        subprocess.run([sys.executable, __file__, "left_out", labels, FLAG], check=True)
        write_list(labels)
        subprocess.run([sys.executable, __file__, "left_out", labels], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]) or None)
    elif sys.argv[1:2] == ["left_out"]:
        measure_left_out(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
