"""Several processes from one command line, as they are started without a scheduler."""

import os
import signal
import subprocess
import sys
import time

import pytest
from scenes import write_shards

from depth_anything_train.callbacks.metrics_log import read_metrics
from depth_anything_train.command import compose
from depth_anything_train.runtime import RUN_AGAIN
from depth_anything_train.train import train

STEPS = 30


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "labelled", "labelled")


def start(labelled, out, *more):
    keys = ["experiment=tiny_teacher", f"out={out}", f"labelled=[{labelled}]", f"steps={STEPS}", *more]
    command = [sys.executable, "-m", "depth_anything_train.cli", "train", *keys]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for_step(process, out, step):
    while len(read_metrics(out / "metrics.jsonl")) < step:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)


def end(process):
    errors = process.communicate()[1].decode()
    return process.returncode, errors


def numbers(out):
    return [row["train/loss"] for row in read_metrics(out / "metrics.jsonl")]


def weights(out):
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(labelled, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    status, errors = end(start(labelled, out, "trainer.devices=2"))
    assert status == 0, errors
    return out


def test_two_ranks__have_the_losses_of_one(labelled, tmp_path):
    # Steps so small that rounding, which differs, cannot grow: medians make the loss a rough surface.
    careful = ["optim.encoder_lr=1e-7", "optim.decoder_lr=1e-7", "steps=6"]
    train(compose("train", ["experiment=tiny_teacher", f"out={tmp_path / 'one'}", f"labelled=[{labelled}]", *careful]))
    status, errors = end(start(labelled, tmp_path / "two", "trainer.devices=2", *careful))
    assert status == 0, errors
    assert len(numbers(tmp_path / "two")) == 6
    assert numbers(tmp_path / "two") == pytest.approx(numbers(tmp_path / "one"), rel=1e-5)


def test_two_ranks__one_of_them_asked_to_stop_saves_and_continues_to_the_same_weights(labelled, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(labelled, out, "trainer.devices=2", "checkpoint.every_n_steps=1000")
    wait_for_step(process, out, 2)
    process.send_signal(signal.SIGTERM)  # the first process alone; the second must hear of it
    status, errors = end(process)
    assert status == RUN_AGAIN, errors
    assert list((out / "checkpoints").glob("*.ckpt"))
    status, errors = end(start(labelled, out, "trainer.devices=2"))
    assert status == 0, errors
    assert weights(out) == weights(undisturbed)


def test_two_ranks__the_run_ends_when_one_dies(labelled, tmp_path):
    process = start(labelled, tmp_path / "run", "trainer.devices=2", "steps=100000")
    wait_for_step(process, tmp_path / "run", 2)
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    (second,) = [line.split()[0] for line in children.stdout.splitlines() if "train" in line]
    os.kill(int(second), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in (0, RUN_AGAIN)
