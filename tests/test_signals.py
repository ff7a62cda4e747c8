import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depth_anything_train.signals import PARENT, RUN_AGAIN, leaving_on_request


def test_die_with_parent__a_stage_ends_with_the_run_that_started_it():
    stage = (
        "import time; from depth_anything_train.signals import die_with_parent\n"
        "die_with_parent(); print('up', flush=True); time.sleep(60)"
    )
    program = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stage!r}], stdout=subprocess.PIPE,"
        f" env={{**os.environ, {PARENT!r}: str(os.getpid())}})\n"
        "print(child.pid, child.stdout.readline().decode(), flush=True); os.kill(os.getpid(), 9)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    assert said[1:] == ["up"]
    child = int(said[0])
    for _ in range(200):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        os.sched_yield()
        subprocess.run(["sleep", "0.05"])
    pytest.fail(f"process {child} is still running")


@pytest.mark.parametrize("times", [1, 3])
def test_leaving_on_request__is_asked_again_by_itself_when_others_swallow_the_exception(times):
    swallowed = 0
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, leaving_on_request():
        for _ in range(100):
            try:
                time.sleep(0.1) if swallowed else signal.raise_signal(signal.SIGTERM)
            except BaseException:
                if swallowed == times:
                    raise
                swallowed += 1
    assert left.value.code == RUN_AGAIN and swallowed == times
    assert signal.getsignal(signal.SIGTERM) == before


def test_leaving_on_request__a_request_that_was_held_is_answered_with_its_status():
    program = (
        "import atexit, signal, time; from depth_anything_train.signals import *\n"
        "atexit.register(time.sleep, 0.2)\n"  # as long as torch takes to leave
        "signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS); signal.raise_signal(signal.SIGTERM)\n"
        "with leaving_on_request(): time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == RUN_AGAIN


def test_leaving_on_request__a_block_inside_does_not_keep_the_request_from_being_raised_again():
    with pytest.raises(SystemExit), leaving_on_request():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            pass
        with leaving_on_request():
            pass
        time.sleep(1)


def test_leaving_on_request__what_leaves_the_block_is_not_asked_for_again():
    with leaving_on_request():
        pass
    with pytest.raises(SystemExit), leaving_on_request():
        signal.raise_signal(signal.SIGTERM)
    with leaving_on_request():  # and no request is left over
        time.sleep(0.05)
