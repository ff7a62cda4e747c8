import os
import subprocess
import sys
from pathlib import Path

import pytest

from depth_anything_train.signals import PARENT


def test_die_with_parent__a_stage_ends_with_the_run_that_started_it():
    stage = "from depth_anything_train.runtime import *; die_with_parent(); print('up', flush=True); time.sleep(60)"
    program = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stage!r}], stdout=subprocess.PIPE,"
        f" env={{**os.environ, {PARENT!r}: str(os.getpid())}})\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    child = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
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
