"""What `slurm/launch.sh` asks srun for. Whether srun gives it shows only on a node with more cores than tests have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = [str(ROOT / "slurm" / "launch.sh"), "label"]
LABEL = [str(ROOT / "slurm" / "label.sbatch")]


def arguments_of_srun(folder: Path, script: list[str] = LAUNCH, **environment: str) -> list[str]:
    """Run a script where `srun` writes down its arguments."""
    srun = folder / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command, given = ["bash", *script, "out=two words"], {"SLURM_SUBMIT_DIR": str(ROOT), **environment}
    run = subprocess.run(command, env={**inherited, "PATH": path, **given}, capture_output=True, check=True)
    return run.stdout.decode().splitlines()


def test_launch__asks_srun_for_the_cores_of_a_task(tmp_path: Path) -> None:
    asked = arguments_of_srun(tmp_path, SLURM_CPUS_PER_TASK="12")
    assert asked == ["--wait=60", "--cpus-per-task=12", "depth-anything", "label", "out=two words"]


def test_launch__asks_for_nothing_where_sbatch_was_not_asked(tmp_path: Path) -> None:
    asked = arguments_of_srun(tmp_path, SRUN_OPTIONS="--container-image=a --quiet")
    assert asked == ["--wait=60", "--container-image=a", "--quiet", "depth-anything", "label", "out=two words"]


def test_label__goes_on_without_a_process_that_died(tmp_path: Path) -> None:
    assert arguments_of_srun(tmp_path, LABEL) == [
        "--wait=0",
        "depth-anything",
        "label",
        "engine=array",
        "out=two words",
    ]
