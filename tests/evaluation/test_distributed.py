"""Two real processes that evaluate together, against one."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys

import pytest
import torch
from scenes import write_shards
from torch import distributed

from depth_anything_train.evaluation.distributed import ALONE, Ranks
from depth_anything_train.runtime import UserError


def share_as(rank, world, store, said):
    """Work on 0, 1, 2 and so on up to 7, in which 5 cannot be done, then hand something in."""
    distributed.init_process_group("gloo", store=distributed.FileStore(store, world), rank=rank, world_size=world)
    done, checks, met = [], [], ""
    ranks = Ranks(rank, world, lambda: checks.append(1))

    def work(block):
        if block == 5:
            raise UserError("block 5")
        done.append(block)

    ranks.share(range(5), work)
    whole, done[:] = list(done), []
    try:
        ranks.share(range(8), work)
    except UserError as error:
        met = str(error)
    said.put((rank, whole, done, met, len(checks), ranks.gather(rank)))
    distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_share__each_block_is_done_once_and_what_one_process_meets_ends_all(world, tmp_path):
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    processes = [
        context.Process(target=share_as, args=(rank, world, str(tmp_path / "store"), said)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = sorted(said.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    for rank, whole, done, met, checks, handed_in in found:
        assert whole == [*range(rank, 5, world)]
        assert done == [k for k in range(rank, 8, world) if k < 5 or rank != 5 % world]
        assert met == "block 5"
        assert checks == 5 // world + 8 // world, "all processes check equally often, also behind what one met"
        assert handed_in == ([*range(world)] if rank == 0 else []), "what is handed in is of the work that all are at"


def test_share__a_process_alone_ends_where_it_is():
    done = []

    def work(block):
        done.append(block)
        if block == 2:
            raise UserError("block 2")

    with pytest.raises(UserError, match="block 2"):
        ALONE.share(range(5), work)
    assert done == [0, 1, 2]


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
