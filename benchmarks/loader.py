"""Reading and loading beside what people use: webdataset, and PIL with torchvision. Everything in one run, as ratios.

    python benchmarks/loader.py [seconds a row] [workers]

raw        samples of a photograph (100 kB) and a label (150 kB), not decoded: ours verifies every byte, webdataset none
labelled   photographs with 16-bit labels in millimetres, of their size, to crops of 518: a teacher's batch
pseudo     photographs with pseudo labels whose shorter side is 518, to crops of 518: a student's batch, not perturbed

The plain loader is what a tutorial would write: a Dataset over files, PIL, torchvision's v2 transforms in float32, the
default collate function. Its labels are 16-bit PNG; ours are dz16, as `prepare` and `label` write them. All files are
in the page cache. Without workers one process computes in one thread, and all take turns, so that a busy moment of the
machine meets all of them; with `workers`, which compute ahead, one runs after the other.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from data_engine.ingest.base import RawSample
from data_engine.packing import pack_label
from data_engine.writer import ShardWriter
from depth_anything_train.data.colour import StrongPerturbation
from depth_anything_train.data.cutmix import CutMix
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.dz16 import encode_dz16
from depth_anything_train.data.permutation import permute
from depth_anything_train.data.schema import IMAGES, LABELLED, PSEUDO_LABELS, SCHEMA
from depth_anything_train.data.shards import Shard, ShardFolder
from depth_anything_train.data.sources import LabelledSource, PseudoLabelSource, Source
from depth_anything_train.files import write_json

SIZE, BATCH = 518, 8
IMAGES_EACH = 48
TURN = 0.5  # seconds, of which finding its data in no cache is a small part
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


Loaders = dict[str, Callable[[], Iterable[Any]]]


def by_turns(loaders: Loaders, seconds: float, *, warm_up: int) -> dict[str, float]:
    """Items a second of each, after the first few, which start workers and fill caches."""
    iterators = {name: iter(loader()) for name, loader in loaders.items()}
    for iterator in iterators.values():
        for _ in range(warm_up):
            next(iterator)
    counts, spent = dict.fromkeys(iterators, 0), dict.fromkeys(iterators, 0.0)
    while min(spent.values()) < seconds:
        for name, iterator in iterators.items():
            start = time.perf_counter()
            while (elapsed := time.perf_counter() - start) < TURN:
                next(iterator)
                counts[name] += 1
            spent[name] += elapsed
    return {name: count / spent[name] for name, count in counts.items()}


def one_after_the_other(loaders: Loaders, seconds: float, *, warm_up: int) -> dict[str, float]:
    """The same of loaders with workers."""
    return {name: by_turns({name: loader}, seconds, warm_up=warm_up)[name] for name, loader in loaders.items()}


def row(name: str, ours: float, theirs: float, goal: str = "") -> None:
    print(f"  {name:<34} {ours:9.1f} {theirs:9.1f} {ours / theirs:6.2f} x  {goal}", flush=True)


# -- Raw samples. -----------------------------------------------------------------------------------------------------


def raw(folder: Path, seconds: float) -> None:
    rng = np.random.default_rng(0)
    for shard in range(4):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for number in range(250):
                writer.add(f"s{shard}_{number:05d}", {"jpg": rng.bytes(100_000), "dz16": rng.bytes(150_000)})
            writer.commit()
    shards = ShardFolder(folder)
    order = permute(np.arange(len(shards)), len(shards), 0).tolist()
    pattern = str(folder / "{00000..00003}.tar")

    def theirs() -> Iterator[Any]:
        while True:
            yield from webdataset.WebDataset(pattern, shardshuffle=False)

    loaders: Loaders = {
        "webdataset": theirs,
        "in the order of the shards": lambda: _forever(shards, range(len(shards))),
        "in random order": lambda: _forever(shards, order),
    }
    plain, *ours = by_turns(loaders, seconds, warm_up=1000).items()
    for name, rate in ours:
        row(name, rate, plain[1], "(4)")


def _forever(shards: ShardFolder, order: Iterable[int]) -> Iterator[Any]:
    return (shards[index] for index in itertools.cycle(order))


# -- Training views. --------------------------------------------------------------------------------------------------


def pattern(height: int, width: int, seed: int) -> np.ndarray:
    """A picture (H, W, 3) float32 in 0 to 1 whose detail falls off with its frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 11):
        cells = rng.standard_normal((max(2**octave * height // width, 2), 2**octave, 3), np.float32)
        picture += 0.62**octave * cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)
    return (picture - picture.min()) / (picture.max() - picture.min())


def write_pictures(folder: Path, height: int, width: int, label_height: int, label_width: int, *, pseudo: bool) -> int:
    """The same pictures as shards for us and as files for the plain loader; returns the mean bytes of a JPEG."""
    kind = IMAGES if pseudo else LABELLED
    sizes = []
    (folder / "files").mkdir(parents=True)
    with ShardWriter(folder / "shards" / "0.tar") as images, ShardWriter(folder / "labels" / "0.tar") as labels:
        for number in range(IMAGES_EACH):
            image = (255 * pattern(height, width, number)).astype(np.uint8)
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
            largest = 60_000 if pseudo else 9_500  # all codes, or metres
            code = (500 + largest * pattern(label_height, label_width, number)[..., 0]).astype(np.uint16)
            code = cv2.GaussianBlur(code, (0, 0), 3)  # as smooth as a network's output
            png = cv2.imencode(".png", code)[1].tobytes()
            (folder / "files" / f"{number:04d}.jpg").write_bytes(jpeg)
            (folder / "files" / f"{number:04d}.png").write_bytes(png)
            members = {"jpg": jpeg} if pseudo else {"jpg": jpeg, "disparity.png": png, "json": b'{"scale": 1000}'}
            images.add(f"{number:04d}", members if pseudo else pack_label(RawSample("", members)).members)
            labels.add(f"{number:04d}", {"disparity.dz16": encode_dz16(code.astype(np.float32), code > 0)})
            sizes.append(len(jpeg))
        images.commit()
        labels.commit()
    write_json(folder / "shards" / "dataset.json", {"schema": SCHEMA, "kind": kind})
    write_json(folder / "labels" / "dataset.json", {"schema": SCHEMA, "kind": PSEUDO_LABELS, "images": "../shards"})
    digests = {"input": ShardFolder(folder / "shards").digest(0), "output": Shard(folder / "labels" / "0.tar").digest}
    write_json(folder / "labels" / "0.json", digests)
    return int(np.mean(sizes))


class Plain(Dataset[dict[str, Any]]):
    """What a tutorial would write."""

    def __init__(self, folder: Path) -> None:
        self.images = sorted(folder.glob("*.jpg"))
        self.both = v2.Compose(
            [v2.Resize(SIZE, v2.InterpolationMode.BICUBIC), v2.RandomCrop(SIZE), v2.RandomHorizontalFlip()]
        )
        self.image = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.images[index % len(self.images)]
        image = Image.open(path).convert("RGB")
        stored = np.asarray(Image.open(path.with_suffix(".png"))).astype(np.float32) / 1000
        image, disparity = self.both(image, tv_tensors.Mask(torch.from_numpy(stored)[None]))
        valid = disparity > 0
        known = disparity[valid]
        return {
            "image": self.image(image),
            "disparity": (disparity - known.min()) / (known.max() - known.min()),
            "valid": valid,
            "key": path.stem,
        }


def views(source: Source, workers: int, *, perturbed: bool = False) -> Iterable[Any]:
    """Batches of training views of ours."""
    name = "unlabelled" if isinstance(source, PseudoLabelSource) else "labelled"
    data = ShardDataModule(
        sources={name: source},
        batch={name: BATCH},
        size=SIZE,
        steps=10**9,
        seed=0,
        workers=workers,
        perturbation=StrongPerturbation() if perturbed else None,
        cutmix=CutMix() if perturbed else None,
    )
    return data.loader()


def compare(folder: Path, seconds: float, workers: int, *, pseudo: bool, large: bool, goal: str) -> None:
    """Print the rows of one kind of pictures and one number of workers."""
    labels = [folder / "labels"]
    source = PseudoLabelSource(labels) if pseudo else LabelledSource([folder / "shards"])
    loaders: Loaders = {
        "plain": lambda: DataLoader(Plain(folder / "files"), BATCH, num_workers=workers),
        f"{workers} workers": lambda: views(source, workers),
    }
    if pseudo:
        loaders[f"{workers} workers, ours perturbed and mixed"] = lambda: views(source, workers, perturbed=True)
    if large:
        reduced = PseudoLabelSource(labels, reduce_to=SIZE)
        loaders[f"{workers} workers, ours with reduce_to"] = lambda: views(reduced, workers)
    measure = one_after_the_other if workers else by_turns
    plain, *ours = measure(loaders, seconds, warm_up=4).items()
    for name, rate in ours:
        row(name, BATCH * rate, BATCH * plain[1], "" if "perturbed" in name else goal)


def main() -> None:
    seconds, workers = [int(given) for given in sys.argv[1:]] + [5, 2][len(sys.argv) - 1 :]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    print(f"  {'samples a second':<34} {'ours':>9} {'theirs':>9}  ratio  (goal)")
    with tempfile.TemporaryDirectory() as folder:
        raw(Path(folder), seconds)
    for height, width, label, pseudo, goal in (
        (480, 640, (480, 640), False, "(5)"),
        (480, 640, (518, 690), True, "(5)"),
        (1500, 2250, (518, 777), True, "(4)"),
    ):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = write_pictures(folder, height, width, *label, pseudo=pseudo)
            print(f"{'pseudo' if pseudo else 'labelled'}, {height} x {width}, JPEG of {size / 1000:.0f} kB")
            for number in (0, workers):
                large = min(height, width) >= 2 * SIZE
                compare(folder, seconds, number, pseudo=pseudo, large=large, goal=goal)


if __name__ == "__main__":
    main()
