import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from depth_anything_train.locks import LOCK, only_run_in
from depth_anything_train.runtime import UserError
from depth_anything_train.signals import RUN_AGAIN

HOLD = """
import os, sys, time
from pathlib import Path
from depth_anything_train.locks import only_run_in
from depth_anything_train.signals import hold_signals
if "held" in sys.argv:
    hold_signals()
with only_run_in(Path(sys.argv[1])):
    if "forks" not in sys.argv or os.fork():
        print("in", flush=True)
    time.sleep(60)
"""


@contextmanager
def runs(folder):
    """What starts processes that go into the folder and stay there; all are killed at the end."""
    processes = []

    def start(*arguments, **environment):
        line = [sys.executable, "-c", HOLD, str(folder), *arguments]
        process = subprocess.Popen(
            line, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process.stderr.close()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_only_run_in__a_second_run_waits_for_the_first_and_says_for_whom(tmp_path):
    with runs(tmp_path) as start:
        first = start()
        assert first.stdout.readline() == b"in\n"
        second = start()
        assert f"Another run is working in {tmp_path} (process {first.pid} on ".encode() in second.stderr.readline()
        assert second.poll() is None
        kill(first)
        assert second.stdout.readline() == b"in\n"


def test_only_run_in__what_a_killed_run_forked_does_not_keep_the_lock(tmp_path):
    with runs(tmp_path) as start:
        first = start("forks")
        assert first.stdout.readline() == b"in\n"
        kill(first)  # the fork sleeps on
        start = time.monotonic()
        with only_run_in(tmp_path):
            assert time.monotonic() - start < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_only_run_in__asked_to_stop_while_waiting_wants_to_be_run_again(tmp_path, number):
    with runs(tmp_path) as start, only_run_in(tmp_path):
        waiting = start("held")
        assert b"waiting for it to end" in waiting.stderr.readline()
        waiting.send_signal(number)
        assert waiting.wait(20) == RUN_AGAIN


def of_torchrun(folder, rank):
    """What torchrun tells a process where port and run id are fixed; its folder is another one each time."""
    fixed = {"TORCHELASTIC_RUN_ID": "mine", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return {**fixed, "RANK": rank, "TORCHELASTIC_ERROR_FILE": f"/tmp/{folder}/attempt_0/{rank}/error.json"}


def of_srun(port, rank):
    return {"RANK": rank, "MASTER_PORT": port}


@pytest.mark.parametrize("launched", [of_torchrun, of_srun])
def test_only_run_in__ranks_of_one_start_go_in_together_once_their_first_has_the_lock(tmp_path, launched):
    with runs(tmp_path) as start:
        before = start(**launched("1", "0"))
        assert before.stdout.readline() == b"in\n"
        ranks = [start(**launched("2", str(rank))) for rank in range(2)]
        assert b"waiting for it to end" in ranks[0].stderr.readline()
        time.sleep(1)
        assert all(rank.poll() is None for rank in ranks)
        os.set_blocking(ranks[1].stdout.fileno(), False)
        assert ranks[1].stdout.read() in (None, b"")
        os.set_blocking(ranks[1].stdout.fileno(), True)
        kill(before)
        assert [rank.stdout.readline() for rank in ranks] == [b"in\n"] * 2


def test_only_run_in__what_the_first_process_starts_belongs_to_it(tmp_path):
    with runs(tmp_path) as start, only_run_in(tmp_path):
        # As Lightning starts the process of a second device: with an address that the first one had not.
        assert start(LOCAL_RANK="1", MASTER_PORT="1234").stdout.readline() == b"in\n"


def test_only_run_in__a_first_process_that_never_comes_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="first process of this run has not begun .* within timeout_s=0.2"):
        with only_run_in(tmp_path, timeout_s=0.2):
            pass
    assert not (tmp_path / LOCK).exists()
