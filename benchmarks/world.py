"""How many scenes of the procedural world one core draws in a second: python benchmarks/world.py [scenes a geometry].

Counts processor time, so that other programs on the machine matter little.
"""

from __future__ import annotations

import sys
import time
from itertools import cycle, islice

import cv2

from data_engine.world import DOMAINS, render


def main(scenes: int) -> None:
    cv2.setNumThreads(1)
    geometries = list(dict.fromkeys(domain.split("-")[0] for domain in DOMAINS))
    total = 0.0
    for geometry in geometries:
        domains = [domain for domain in DOMAINS if domain.startswith(geometry)]
        render(domains[0], seed=0, index=0)
        start = time.process_time()
        for index, domain in enumerate(islice(cycle(domains), scenes)):
            render(domain, seed=1, index=index)
        seconds = time.process_time() - start
        total += seconds
        print(f"{geometry:10s} {scenes / seconds:6.1f} images/s")
    print(f"{'all':10s} {scenes * len(geometries) / total:6.1f} images/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 70)
