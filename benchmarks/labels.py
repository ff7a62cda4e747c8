"""The label store beside 16-bit PNG, and the labelling engine beside a bare loop over its model.

    OMP_NUM_THREADS=1 python benchmarks/labels.py [images] [milliseconds] [parts]

`images` (2000) of 480 x 640 pixels are labelled at 518 x 686 by a teacher that waits so many `milliseconds` (20) an
image without holding the interpreter, as a GPU does. `parts` is a comma-separated choice of codec, flips, engine,
workers, ray (all). Maps are of the procedural world, with the noise of a network, brought up from half the size as its
decoder does. `remote` has the images in eight shards on a web server that takes as long for a shard as the teacher.

20 ms on 2 cores leave as much processor time an image as 2.5 ms on 16: about what a large teacher takes on an H200.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.append(str(TESTS))  # the stub teacher is shared with the tests
os.environ["PYTHONPATH"] = str(TESTS) + os.pathsep + str(Path(__file__).resolve().parent)  # and goes to Ray's workers

from stores import web_server  # noqa: E402
from stub_teacher import StubTeacher  # noqa: E402

from data_engine.engines.local import LocalEngine  # noqa: E402
from data_engine.engines.ray import RayEngine  # noqa: E402
from data_engine.ingest.procedural import Procedural  # noqa: E402
from data_engine.label import label  # noqa: E402
from data_engine.labelling.labeller import ShardLabeller  # noqa: E402
from data_engine.labelling.settings import LabelSettings  # noqa: E402
from data_engine.writer import ShardWriter  # noqa: E402
from depth_anything_train.data.dz16 import decode_dz16, encode_dz16  # noqa: E402
from depth_anything_train.data.file_cache import CACHE  # noqa: E402
from depth_anything_train.data.images import decode_image  # noqa: E402
from depth_anything_train.data.schema import BadSample, BadShard  # noqa: E402
from depth_anything_train.data.shards import Shard, ShardFolder  # noqa: E402

HEIGHT, WIDTH = 518, 686
PICTURES = 12
SHARD = 1000  # images, as `prepare` makes them
BATCH = 8


@dataclass
class MapTeacher(StubTeacher):
    """Waits, and predicts the same maps again and again. Batches go to memory that is kept, as they do for a GPU."""

    size: int = HEIGHT
    maps: Any = field(default=None, repr=False)
    buffers: list[np.ndarray] = field(default_factory=list, repr=False)

    def __getstate__(self):
        return {**self.__dict__, "buffers": []}

    def load(self, images):
        if not self.buffers:
            self.buffers = [np.zeros((BATCH, HEIGHT, WIDTH, 3), np.float32) for _ in range(2)]
        self.buffers.reverse()  # the other one may be in use
        return np.stack(images, out=self.buffers[0][: len(images)])

    def infer(self, batch, *, flip):
        time.sleep(self.seconds * len(batch))
        return self.maps[: len(batch), None]


def make_maps() -> np.ndarray:
    """Predictions (BATCH, 518, 686) float32: scenes with noise of 0.1 %, at half the size, brought up."""
    scenes = Procedural(["*-day"], BATCH, 0, HEIGHT // 2, WIDTH // 2)
    rng = np.random.default_rng(0)
    maps = np.empty((BATCH, HEIGHT, WIDTH), np.float32)
    for number, item in enumerate(scenes.items()):
        small, _ = decode_dz16(scenes.load(item).members["disparity.dz16"])
        small = small / small.max() + rng.normal(0, 0.001, small.shape).astype(np.float32)
        cv2.resize(np.maximum(small, 0), (WIDTH, HEIGHT), dst=maps[number], interpolation=cv2.INTER_LINEAR)
    return maps


def milliseconds(function: Callable[[Any], Any], items: list[Any], repeats: int = 15) -> float:
    """Median processor time of one call, after one round to warm up."""
    times = []
    for _ in range(repeats + 1):
        for item in items:
            start = time.thread_time()
            function(item)
            times.append(time.thread_time() - start)
    return 1000 * statistics.median(times[len(items) :])


def compare_codecs(maps: np.ndarray) -> None:
    every = np.ones(maps.shape[1:], bool)
    codes = [np.rint(1 + (one - one.min()) / np.ptp(one) * 65534).astype(np.uint16) for one in maps]
    ours = [encode_dz16(one, every) for one in maps]
    pngs = [cv2.imencode(".png", one, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1] for one in codes]
    size, png_size = sum(map(len, ours)), sum(map(len, pngs))
    print(f"codec: bytes {size // len(maps):,} / PNG {png_size // len(maps):,} = {size / png_size:.3f} (goal 0.70)")
    encode = milliseconds(lambda one: encode_dz16(one, every), list(maps))
    png_encode = milliseconds(lambda one: cv2.imencode(".png", one, [cv2.IMWRITE_PNG_COMPRESSION, 1]), codes)
    print(f"codec: encode {encode:.2f} ms, PNG {png_encode:.2f} ms: {png_encode / encode:.1f} x as fast (goal 10)")
    decode = milliseconds(decode_dz16, ours)
    png_decode = milliseconds(lambda one: cv2.imdecode(one, cv2.IMREAD_UNCHANGED), pngs)
    print(f"codec: decode {decode:.2f} ms, PNG {png_decode:.2f} ms: {png_decode / decode:.1f} x as fast (goal 2.5)")


def flip_bits(maps: np.ndarray, folder: Path, flips: int = 1000) -> None:
    """Flip single bits anywhere in a shard and in labels; count those that reading finds."""
    every = np.ones(maps.shape[1:], bool)
    with ShardWriter(folder / "0.tar") as writer:
        for number, one in enumerate(maps):
            writer.add(f"{number}", {"disparity.dz16": encode_dz16(one, every)})
        writer.commit()
    sound, rng = (folder / "0.tar").read_bytes(), np.random.default_rng(0)
    one, found, decoded = encode_dz16(maps[0], every), 0, 0
    for _ in range(flips):
        found += damaged(write(folder / "0.tar", flipped(sound, rng)))
        try:
            decode_dz16(flipped(one, rng))
        except BadSample:
            decoded += 1
    print(f"flips: {found} of {flips} found in a shard of {len(sound):,} bytes, {decoded} of {flips} in a label alone")
    assert not damaged(write(folder / "0.tar", sound))


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged(tar: Path) -> bool:
    try:
        shard = Shard(tar)
        shard.check_index()
        for number in range(shard.count):
            shard.read(number)
    except (BadSample, BadShard):
        return True
    return False


def write_images(folder: Path, count: int, each: int = SHARD) -> Path:
    """Shards of a few pictures, again and again under other keys; grain gives them the bytes of photographs."""
    scenes, rng = Procedural(["street-*", "room-*"], PICTURES, 1, 480, 640, kind="images"), np.random.default_rng(0)
    pictures = []
    for item in scenes.items():
        image = decode_image(scenes.load(item).members["jpg"])
        grainy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
        pictures.append(cv2.imencode(".jpg", grainy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    print(f"images: 480 x 640, {sum(map(len, pictures)) // PICTURES // 1000} kB on average")
    for start in range(0, count, each):
        with ShardWriter(folder / f"{start // each:05d}.tar") as writer:
            for number in range(start, min(start + each, count)):
                writer.add(f"{number:07d}", {"jpg": pictures[number % PICTURES]})
            writer.commit()
    return folder


def bare_loop(teacher: MapTeacher, images: ShardFolder) -> float:
    """Seconds for the teacher alone, over images that are decoded and prepared."""
    ready = [
        teacher.prepare(decode_image(images[number].image), HEIGHT, WIDTH) for number in range(min(BATCH, len(images)))
    ]
    batch = teacher.load(ready)
    start = time.perf_counter()
    for first in range(0, len(images), BATCH):
        teacher.fetch(teacher.infer(batch[: len(images) - first], flip=False))
    return time.perf_counter() - start


def fetch_ahead(teacher: MapTeacher, folder: Path, count: int) -> None:
    """Label shards that take as long to come as to be labelled, and the same from the disk."""
    images = write_images(folder / "shards", count, each=-(-count // 8))
    os.environ[CACHE] = str(folder / "cache")
    local, _ = run(teacher, images, folder / "out", LocalEngine())
    names = [tar.name for tar in images.glob("*.tar")]
    with web_server(images) as web:
        web.slow = dict.fromkeys(names, local / len(names))
        wall, _ = run(teacher, web.address, folder / "out", LocalEngine())
    first = local / len(names)
    print(f"remote: {wall:.1f} s; labelling takes {local:.1f} s, fetching as long, the first shard {first:.1f} s of it")
    print(f"remote: {wall / (2 * local):.2f} of one after the other, {wall / (local + first):.2f} of what must be")


def run(teacher: MapTeacher, images: Path | str, out: Path, engine: Any) -> tuple[float, float]:
    """Wall and processor seconds (of this process) to label all images."""
    shutil.rmtree(out, ignore_errors=True)
    labeller = ShardLabeller(teacher, LabelSettings(size=HEIGHT, batch_size=BATCH), workers=2)
    start, processor = time.perf_counter(), time.process_time()
    label(labeller, images, out, engine=engine)
    return time.perf_counter() - start, time.process_time() - processor


class TimedRay(RayEngine):
    """Says how long Ray took to start."""

    startup = 0.0

    def _connect(self) -> None:
        start = time.perf_counter()
        super()._connect()
        self.startup = time.perf_counter() - start


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    cost = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.02
    parts = set(
        sys.argv[3].split(",") if len(sys.argv) > 3 else ("codec", "flips", "engine", "remote", "workers", "ray")
    )
    ray = TimedRay(workers=2, cpus_per_worker=0.5) if "ray" in parts else None  # it says where Ray is to listen
    cv2.setNumThreads(1)
    maps = make_maps()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "codec" in parts:
            compare_codecs(maps)
        if "flips" in parts:
            flip_bits(maps, folder)
        if not parts & {"engine", "remote", "workers", "ray"}:
            return
        images, teacher = write_images(folder / "images", count), MapTeacher(seconds=cost, maps=maps)
        if "engine" in parts:
            bare = bare_loop(teacher, ShardFolder(images))
            wall, processor = run(teacher, images, folder / "out", LocalEngine())
            print(f"engine: {wall:.1f} s, bare loop {bare:.1f} s = {wall / bare:.3f} (goal 1.05)")
            print(f"engine: {1000 * processor / count:.2f} ms of processor an image, all in (goal 5)")
        if "remote" in parts:
            fetch_ahead(teacher, folder, count)
        if parts & {"workers", "ray"}:
            two, _ = run(teacher, images, folder / "out", LocalEngine(processes=2))
        if "workers" in parts:
            one, _ = run(teacher, images, folder / "out", LocalEngine(processes=1))
            print(f"workers: one {one:.1f} s, two {two:.1f} s: {one / two:.2f} x as fast (goal 1.8)")
        if ray is not None:
            wall, _ = run(teacher, images, folder / "out", ray)
            rest = wall - ray.startup
            print(f"ray: {rest:.1f} s, local {two:.1f} s: {rest / two:.2f} (goal 1.15)")
            print(f"ray: start-up {ray.startup:.1f} s beside it")


if __name__ == "__main__":
    main()
