"""A real SLURM on this machine alone: munged, slurmctld and slurmd on loopback, all they write in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# Requeued jobs wait until their credential has run out. `high` preempts `low`, whose jobs have a minute to save.
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SrunPortRange=60001-60999
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=high Nodes={host} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")


class Slurm:
    """The cluster: submits jobs and asks after them."""

    def __init__(self, folder: Path) -> None:
        # The program as users have it on the path, and one thread for each of two tasks on two cores.
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            "PATH": paths,
        }

    def run(self, *command: object) -> str:
        """Run a client of SLURM in the project's folder and return what it prints."""
        arguments = list(map(str, command))
        done = subprocess.run(arguments, env=self.environment, cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def submit(self, *command: object) -> str:
        """Submit a job and return its number."""
        return self.run("sbatch", "--parsable", *command).strip()

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` knows: JobState, Restarts and so on."""
        return dict(word.split("=", 1) for word in self.run("scontrol", "show", "job", job).split() if "=" in word)

    def wait(self, job: str, until: Callable[[dict[str, str]], bool], *, log: Path, seconds: int = 300) -> None:
        """Wait until the job's facts are as wanted."""
        end = time.monotonic() + seconds
        while not until(facts := self.facts(job)):
            state = {name: facts[name] for name in ("JobState", "Restarts", "Reason", "ExitCode")}
            said = log.read_text() if log.exists() else "nothing"
            assert facts["JobState"] not in ("FAILED", "NODE_FAIL", "BOOT_FAIL"), f"{state}, log: {said}"
            assert time.monotonic() < end, f"{state}, log: {said}"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A running cluster of one node."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)}: install the packages slurm-wlm and munge")
    if os.geteuid():
        pytest.skip("slurmd starts jobs as other users, so it must be started by root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    daemons: list[Path] = []
    try:
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        config = CONFIG.format(
            host=socket.gethostname().partition(".")[0], ports=_free_ports(2), folder=folder, cpus=os.cpu_count()
        )
        (folder / "slurm.conf").write_text(config)
        cluster = Slurm(folder)
        files = {"key-file": "key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        daemons.append(folder / "munged.pid")
        # --force: root may start it for itself
        options = [f"--{option}={folder / file}" for option, file in {**files, "seed-file": "seed"}.items()]
        cluster.run("munged", "--force", *options)
        for daemon in ("slurmctld", "slurmd"):
            daemons.append(folder / f"{daemon}.pid")
            cluster.run(daemon)
        _wait_for_node(cluster)
        yield cluster
    finally:
        for pid_file in reversed(daemons):
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _wait_for_node(cluster: Slurm) -> None:
    end = time.monotonic() + 30
    while "idle" not in cluster.run("sinfo", "--noheader", "--format=%T"):
        assert time.monotonic() < end, cluster.run("sinfo", "--long")
        time.sleep(0.2)
