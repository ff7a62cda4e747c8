"""Two real processes that evaluate together, against one."""

import json
import os
import socket
import subprocess
import sys

import torch
from scenes import write_shards

from depth_anything_train.evaluation.distributed import Ranks


def test_share__gives_every_block_to_exactly_one_process():
    for count in range(8):
        blocks = [[k] for k in range(count)]
        for world in (1, 2, 3):
            parts = [Ranks(rank, world).share(blocks) for rank in range(world)]
            assert sorted(block for part in parts for block in part) == blocks


def test_share__has_all_processes_check_equally_often():
    for count in range(8):
        for world in (1, 2, 3):
            checks = [[] for _ in range(world)]
            for rank, made in enumerate(checks):
                list(Ranks(rank, world, lambda made=made: made.append(1)).share([*range(count)]))
            assert {len(made) for made in checks} == {count // world}


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(rank, port, arguments):
    """What torchrun would start."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{key: str(value) for key, value in ranks.items()}, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "depth_anything_train.cli", "evaluate", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_two_processes__have_the_numbers_of_one_to_the_last_bit(tmp_path, evaluate, model):
    data = write_shards(tmp_path / "scenes", "labelled", counts=(6, 5, 2))  # the last of the blocks is not full
    tar = data / "shard-000001.tar"
    with open(tar, "r+b") as file:  # one sample is damaged, and counted once
        file.seek(os.path.getsize(tar) // 3)
        file.write(b"\xff" * 64)
    keys = [f"model={model}", f"data={data}", "batch_size=3", "benchmark=paper/kitti", "page=false"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        evaluate(*keys, f"out={tmp_path / 'one'}")
    finally:
        torch.set_num_threads(threads)
    port = free_port()
    processes = [start(rank, port, [*keys, f"out={tmp_path / 'two'}"]) for rank in range(2)]
    errors = [process.communicate(timeout=600)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "images" in errors[0] and "evaluate" not in errors[1], "only the first process speaks"

    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["images"] == 12 and two["skipped"] == {"damaged_sample": 1}
    assert {**one, "provenance": None} == {**two, "provenance": None}
    assert (tmp_path / "one" / "results.csv").read_bytes() == (tmp_path / "two" / "results.csv").read_bytes()
