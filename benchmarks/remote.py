"""What a training waits for when its shards are elsewhere: the next group fetched meanwhile, and when it is asked for.

    python benchmarks/remote.py [seconds a shard] [seconds of steps]

24 shards on a web server that stands still for so long in each, groups of four, and 60 steps that compute nothing. The
first batch counts apart: it waits for its whole group.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the server is shared with the tests

from stores import web_server  # noqa: E402

from data_engine.writer import ShardWriter  # noqa: E402
from depth_anything_train.data.datamodule import ShardDataModule  # noqa: E402
from depth_anything_train.data.file_cache import CACHE  # noqa: E402
from depth_anything_train.data.schema import LABELLED, SCHEMA  # noqa: E402
from depth_anything_train.data.sources import LabelledSource  # noqa: E402
from depth_anything_train.files import write_json  # noqa: E402

SHARDS, EACH, GROUP, STEPS, SIZE = 24, 20, 4, 60, 112


def write_shards(folder: Path) -> None:
    """Small pictures with labels: what is measured is the waiting."""
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for number in range(EACH):
                jpeg = cv2.imencode(".jpg", rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8))[1].tobytes()
                png = cv2.imencode(".png", rng.integers(500, 9500, (SIZE, SIZE)).astype(np.uint16))[1].tobytes()
                writer.add(f"{shard}_{number}", {"jpg": jpeg, "depth.png": png, "json": b'{"scale": 1000}'})
            writer.commit()
    write_json(folder / "dataset.json", {"schema": SCHEMA, "kind": LABELLED})


def waits(address: str, workers: int, seconds: float, *, ahead: bool) -> tuple[float, float]:
    """Seconds that the first batch, and all others together, were waited for."""
    data = ShardDataModule(
        sources={"labelled": LabelledSource([address])},
        batch={"labelled": SHARDS * EACH // STEPS},
        size=SIZE,
        steps=STEPS,
        seed=0,
        workers=workers,
        shuffle_shards=GROUP,
    )
    loader = data.loader()
    if not ahead:
        loader.ahead = None
    batches = iter(loader)
    next(batches)
    first = loader.waited
    for _ in batches:
        time.sleep(seconds / STEPS)
    return first, loader.waited - first


def main() -> None:
    shard_seconds, step_seconds = [float(given) for given in sys.argv[1:]] + [0.5, 15.0][len(sys.argv) - 1 :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shards"
        write_shards(folder)
        with web_server(folder) as web:
            web.slow = {f"{shard:05d}.tar": shard_seconds for shard in range(SHARDS)}
            for workers in (0, 2, 4):
                for ahead in (True, False):
                    os.environ[CACHE] = f"{name}/cache-{workers}-{ahead}"
                    first, others = waits(web.address, workers, step_seconds, ahead=ahead)
                    way = "fetched ahead" if ahead else "fetched when asked for"
                    print(f"{workers} workers, {way}: first batch {first:.1f} s, the others {others:.1f} s", flush=True)


if __name__ == "__main__":
    main()
