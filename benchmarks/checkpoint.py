"""How much memory and time a checkpoint costs, beside Lightning's own way: python benchmarks/checkpoint.py [MB].

A state of `MB` megabytes (1024) is written by each, in a process of its own; what its peak of resident memory rises by
meanwhile is divided by the size of the state. `blocks` is the time until training goes on.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from depth_anything_train.callbacks.checkpoint_io import SoundCheckpointIO

TENSORS = 48
WAYS = {
    "Lightning's": lambda: TorchCheckpointIO(),
    "ours": lambda: SoundCheckpointIO(),
    "ours, in the background": lambda: SoundCheckpointIO(background=True),
}


def measure(way: str, megabytes: int, folder: str, answer: Any) -> None:
    """Write one state; sends the rise of resident memory in bytes, and two times in seconds."""
    each = megabytes * 2**20 // 4 // TENSORS
    state = {"state_dict": {str(number): torch.rand(each) for number in range(TENSORS)}}
    disk = WAYS[way]()
    torch.save(torch.zeros(1), Path(folder) / "first")  # what is loaded at the first time only
    before = peak = resident()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.002):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    disk.save_checkpoint(state, Path(folder) / "step-00000001.ckpt")
    blocks = time.perf_counter() - start
    disk.teardown()
    done = time.perf_counter() - start
    over.set()
    thread.join()
    answer.send((peak - before, blocks, done))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    print(f"state of {megabytes} MB         memory / state   blocks      done")
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            there, here = multiprocessing.Pipe()
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(way, megabytes, folder, here))
            process.start()
            rise, blocks, done = there.recv()
            process.join()
        print(f"{way:25} {rise / 2**20 / megabytes:12.3f} {blocks:9.2f} s {done:7.2f} s", flush=True)


if __name__ == "__main__":
    main()
