"""Several processes from one command line, as they are started without a scheduler."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import alive, wait_until
from striking import run_to_the_end, tiny_runs, weights

from depth_anything_train.run_folder import read_metrics
from depth_anything_train.signals import RUN_AGAIN

STEPS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tiny_runs(tmp_path_factory.mktemp("runs"), steps=STEPS, every=1000, labels=False)


def launch(cfg, *more):
    """The program, which starts the second process by itself; it is on its way when this returns."""
    keys = ["experiment=tiny_teacher", f"out={cfg.out}", f"labelled=[{cfg.labelled[0]}]", f"steps={STEPS}", *more]
    command = [sys.executable, "-m", "depth_anything_train.cli", "train", "trainer.devices=2", *keys]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    while len(read_metrics(Path(cfg.out) / "metrics.jsonl")) < 2:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    return process


def test_launched_ranks__stop_when_one_is_asked_to_and_continue_to_the_same_weights(runs, tmp_path):
    cfg = runs("tiny_teacher", tmp_path / "run")
    process = launch(cfg, "checkpoint.every_n_steps=1000", "timeout_s=60")
    process.send_signal(signal.SIGTERM)  # the first process alone; the second must hear of it
    errors = process.communicate()[1].decode()
    assert process.returncode == RUN_AGAIN, errors
    assert list(tmp_path.glob("run/checkpoints/*.ckpt"))
    assert errors.count("starts from random weights") == errors.count("was asked to stop") == 1, errors
    run_to_the_end(cfg, ranks=2)
    undisturbed = runs("tiny_teacher", tmp_path / "undisturbed")
    run_to_the_end(undisturbed, ranks=2)
    assert weights(tmp_path / "run") == weights(tmp_path / "undisturbed")


def rank_started_by(process):
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    (second,) = [line.split()[0] for line in children.stdout.splitlines() if "train" in line]
    return int(second)


def test_launched_ranks__end_with_the_first_one_whatever_they_wait_for(runs, tmp_path):
    process = launch(runs("tiny_teacher", tmp_path / "run"), "steps=100000")
    second = rank_started_by(process)
    os.kill(second, signal.SIGSTOP)  # as deaf as in a kernel of NCCL that waits for another rank
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not alive(second), seconds=60)


def test_launched_ranks__end_when_one_dies(runs, tmp_path):
    process = launch(runs("tiny_teacher", tmp_path / "run"), "steps=100000")
    os.kill(rank_started_by(process), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in (0, RUN_AGAIN)
