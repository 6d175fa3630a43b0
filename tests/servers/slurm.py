"""A real SLURM on hosts of their own: slurmctld on host 0, slurmd on the others, one munged for all of them.

Needs root, iproute2 and Debian's slurmctld, slurmd, slurm-client and munge; nothing of systemd, D-Bus or control groups.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.hosts import Hosts, why_not

CPUS, MEMORY_MB, GPUS = 4, 6000, 2
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "sinfo", "squeue", "scancel", "srun")
# Two nodes of four CPUs on whatever machine this is. A requeued job may not start before its old credential has expired,
# by default two minutes; here five seconds. slurmd insists on a plugin for control groups, which is then never used.
_CONFIGURATION = """\
ClusterName=sdoml
SlurmctldHost={controller}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,requeue_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=20
KillWait=40
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""
# Devices that are there on every machine: SLURM counts them and hands out their numbers, and nothing opens them.
_GPUS = "Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n"
_CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n"


class Slurm:
    """A cluster of `number` nodes; host 0 is the controller, where users log in."""

    def __init__(self, number: int, folder: Path) -> None:
        self.hosts = Hosts(number + 1, folder)
        self.folder, self.number = folder / "slurm", number
        (self.folder / "state").mkdir(parents=True)
        nodes = "\n".join(
            f"NodeName={self.hosts.name(host)} NodeAddr={self.hosts.address(host)} CPUs={CPUS} RealMemory={MEMORY_MB} "
            f"Gres=gpu:{GPUS} State=UNKNOWN"
            for host in range(1, number + 1)
        )
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                controller=self.hosts.name(0), address=self.hosts.address(0), folder=self.folder, nodes=nodes
            )
        )
        (self.folder / "cgroup.conf").write_text(_CGROUPS)
        (self.folder / "gres.conf").write_text(_GPUS)
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for place in (self.folder, *self.folder.parents[:3]):
            place.chmod(0o755)
        places = {"socket": "sock", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        options = [f"--{name}={self.folder}/munge.{end}" for name, end in places.items()]
        self._munge = subprocess.Popen(
            ["munged", "-F", "-f", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
        self._daemons = {0: self.hosts.run(0, ["slurmctld", "-D", "-i"], environment=self.environment, own_processes=True)}
        for host in range(1, number + 1):
            self.start_node(host)
        self._wait(lambda: self.idle() == number, "the nodes")

    def _wait(self, condition, what: str, timeout: float = 60) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come up: {self.hosts.logs()}"
            time.sleep(0.2)

    def node(self, host: int) -> str:
        return self.hosts.name(host)

    def start_node(self, host: int) -> None:
        (self.folder / f"spool.{self.node(host)}").mkdir(exist_ok=True)
        self._daemons[host] = self.hosts.run(
            host, ["slurmd", "-D", "-N", self.node(host)], environment=self.environment, own_processes=True
        )

    def power_off(self, host: int) -> None:
        self._daemons.pop(host).kill()

    def revive(self) -> None:
        """End all jobs, and give every node power, after whatever a test has left."""
        self.command("scancel", "--user=root")
        for host in range(1, self.number + 1):
            if host not in self._daemons:
                self.start_node(host)
        self._wait(lambda: self.idle() == self.number, "the nodes", 120)

    def command(
        self, *arguments: str, cwd: Path | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where users log in."""
        inside = f'hostname {self.hosts.name(0)}; exec "$@"'
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["ip", "netns", "exec", self.hosts.name(0), "unshare", "--uts", "sh", "-c", inside, "sh", *arguments],
            env={**os.environ, **self.environment, "PATH": path, **(environment or {})},
            capture_output=True, text=True, timeout=60, cwd=cwd, check=False,
        )  # fmt: skip

    def idle(self) -> int:
        return self.command("sinfo", "-h", "-N", "-o", "%T").stdout.split().count("idle")

    def submit(self, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> int:
        """Submit a job and return its number."""
        done = self.command("sbatch", "--parsable", *arguments, cwd=cwd, environment=environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split(";")[0])

    def jobs(self, number: int) -> list[dict[str, str]]:
        """Return what SLURM knows of a job; of an array one entry per task."""
        text = self.command("scontrol", "-o", "show", "job", str(number)).stdout
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines() if "JobState=" in line]

    def wait(self, number: int, timeout: float = 240) -> list[dict[str, str]]:
        """Wait until a job has ended for good."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.jobs(number)
            if found and all(
                job["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
                for job in found
            ):
                return found
            assert time.monotonic() < deadline, f"{found}\n{self.hosts.logs()}"
            time.sleep(0.5)

    def close(self) -> None:
        for daemon in self._daemons.values():
            daemon.kill()
        for daemon in self._daemons.values():
            daemon.wait(10)
        self._munge.terminate()
        self._munge.wait(10)
        self.hosts.close()


@contextmanager
def slurm_cluster(nodes: int, folder: Path) -> Iterator[Slurm]:
    """Start SLURM with some nodes, or skip the test."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"SLURM is not installed here: {', '.join(missing)} are missing")
    if (reason := why_not()) is not None:
        pytest.skip(f"no hosts can be made here: {reason}")
    slurm = Slurm(nodes, folder)
    try:
        yield slurm
    finally:
        slurm.close()
