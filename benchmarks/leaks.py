"""How far copies are from their originals, and other images from each other, by hash and by correlation.

python benchmarks/leaks.py PHOTOS [scenes] [cuts]: the tables of docs/leaks.md, from a folder of photographs, scenes of
the procedural world, and small cuts of each photograph, which stand for many more.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from data_engine.leaks import phash
from data_engine.leaks.search import Limits
from data_engine.world import DOMAINS, render
from depth_anything_train.data.images import decode_image

LIMITS = Limits()


def encode(image, quality=90):
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def resize(image, width, height):
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def cut(image, share, rng):
    height, width = (max(round(side * share), 1) for side in image.shape[:2])
    top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def turn(image, degrees):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


CHANGES = {
    "JPEG quality 50": lambda x, rng: encode(x, 50),
    "JPEG quality 10": lambda x, rng: encode(x, 10),
    "half the size": lambda x, rng: encode(resize(x, x.shape[1] // 2, x.shape[0] // 2)),
    "128 pixels wide": lambda x, rng: encode(resize(x, 128, max(128 * x.shape[0] // x.shape[1], 1))),
    "squashed to 256 x 256": lambda x, rng: encode(resize(x, 256, 256)),
    "gamma 0.7": lambda x, rng: encode((255 * (x / 255) ** 0.7).astype(np.uint8)),
    "cut to 0.95 anywhere": lambda x, rng: encode(cut(x, 0.95, rng)),
    "cut to 0.90 anywhere": lambda x, rng: encode(cut(x, 0.9, rng)),
    "cut to 0.85 anywhere": lambda x, rng: encode(cut(x, 0.85, rng)),
    "cut to 0.80 anywhere": lambda x, rng: encode(cut(x, 0.8, rng)),
    "0.93, 320 x 240, quality 50": lambda x, rng: encode(resize(cut(x, 0.93, rng), 320, 240), 50),
    "turned by 2 degrees": lambda x, rng: encode(turn(x, 2)),
}


def squares(data):
    return [phash.read_square(one) for one in data]


def hashes(all_squares):
    return np.array([phash.window_hashes(square) for square in all_squares])


def copies(images, rng):
    """The table of what is found, for originals and copies in either role."""
    originals = squares(map(encode, images))
    known = hashes(originals)
    print(f"{len(images)} images; found is the share within {LIMITS}")
    print("| change | distance: median | largest | correlation: smallest | found |\n|---|---|---|---|---|")
    for name, change in CHANGES.items():
        changed = squares(change(image, rng) for image in images)
        distances, correlations, found = [], [], 0
        for number, square in enumerate(changed):
            near = phash.near_pairs(known[number : number + 1], phash.window_hashes(square)[None], 64)
            distances.append(near[0].distance)
            correlations.append(phash.correlation(originals[number], square))
            found += distances[-1] <= LIMITS.max_distance and correlations[-1] >= LIMITS.min_correlation
        row = f"{np.median(distances):.0f} | {max(distances)} | {min(correlations):.2f} | {found / len(images):.1%}"
        print(f"| {name} | {row} |", flush=True)


def others(name, groups):
    """False alarms: pairs of images of different groups, straight and mirrored, by hash and then by correlation."""
    flat = [(group, square) for group, members in enumerate(groups) for square in members]
    group, all_hashes = np.array([g for g, _ in flat]), hashes([s for _, s in flat])
    mirrored = hashes([np.ascontiguousarray(s[:, ::-1]) for _, s in flat])
    pairs = sum(len(a) * len(b) for a, b in itertools.combinations(groups, 2))
    start = time.perf_counter()
    near = [
        (pair, flip)
        for flip, other in ((False, all_hashes), (True, mirrored))
        for pair in phash.near_pairs(all_hashes, other, LIMITS.max_distance)
        if group[pair.a] < group[pair.b]
    ]
    seconds = time.perf_counter() - start
    correlations = []
    for pair, flip in near:
        a, b = flat[pair.a][1], flat[pair.b][1]
        correlations.append(phash.correlation(a, np.ascontiguousarray(b[:, ::-1]) if flip else b))
    by_distance = {t: sum(pair.distance <= t for pair, _ in near) for t in range(0, LIMITS.max_distance + 1, 2)}
    print(f"{name}: {len(flat)} images, {pairs:,} pairs; near by hash: {by_distance}")
    if near:
        alarms = sum(value >= LIMITS.min_correlation for value in correlations)
        high = np.percentile(correlations, (50, 99))
        largest = ", ".join(f"{value:.2f}" for value in sorted(correlations)[-5:])
        print(f"  their correlation: median {high[0]:.2f}, 99 % {high[1]:.2f}, largest {largest}")
        print(f"  false alarms: {alarms}")
    print(f"  searched at {2 * len(flat) ** 2 / seconds / 1e6:.1f} million pairs a second, mirror images counted apart")


def main(photos, num_scenes=400, num_cuts=40):
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    data = [path.read_bytes() for path in sorted(Path(photos).iterdir())]
    images = [decode_image(one) for one in data]
    start = time.perf_counter()
    read = squares(data)
    middle = time.perf_counter()
    hashes(read)
    end = time.perf_counter()
    print(f"{len(data)} photographs: {1e3 * (middle - start) / len(data):.1f} ms to read one, ", end="")
    print(f"{1e3 * (end - middle) / len(data):.2f} ms to hash it")
    copies(images, rng)
    scenes = [render(DOMAINS[n % len(DOMAINS)], seed=1, index=n).image for n in range(num_scenes)]
    copies(scenes[:100], rng)
    others("photographs", [[square] for square in read])
    cuts = [squares(encode(cut(image, rng.uniform(0.25, 0.5), rng)) for _ in range(num_cuts)) for image in images]
    others("cuts of different photographs", cuts)
    others("scenes", [[square] for square in squares(map(encode, scenes))])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
