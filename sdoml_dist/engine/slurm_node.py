"""One node of a SLURM job: start Ray there with what the job has of the node, and end it, and nothing else, with the job.

Runs as a step of the job, ``python -m sdoml_dist.engine.slurm_node FOLDER HEAD``, until its standard input ends: that is
how the job's driver asks for the end, and what happens when the driver is lost. It writes its address, or what went wrong,
into the job's folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from sdoml_dist.atomic import write_atomic
from sdoml_dist.engine.allocation import (
    PORT_ATTEMPTS,
    own_address,
    ports,
    share,
    spill_folder,
    temporary_folder,
)
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError

logger = logging.getLogger("sdoml")

_STARTED = "Ray runtime started"
_POLL_S = 0.2
_TERM_S = 20.0
# A Ray that ends so soon has not found its ports free; another block of ports is tried.
_EARLY_S = 30.0


def configure_logging() -> None:
    """Send the messages of this package to standard error, with times in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(stream=sys.stderr, format="%(asctime)sZ %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logger.setLevel(logging.INFO)


def address_path(folder: Path, restart: int) -> Path:
    """Return where the head's address is written; a requeued job must not read that of its former run."""
    return folder / f"address-{restart}.json"


def fault_path(folder: Path, restart: int, node: str) -> Path:
    """Return where a node writes why it could not start."""
    return folder / f"fault-{restart}-{node}.txt"


def ray_command(
    environment: Mapping[str, str], *, node: str, job: int, attempt: int, temporary: Path, spill: Path, head: str | None
) -> tuple[list[str], str]:
    """Return the command that starts Ray on this node, and the address of the cluster.

    Parameters
    ----------
    environment : mapping
        Of the step.
    node : str
        Name of the node.
    job, attempt : int
        They choose the ports.
    temporary, spill : pathlib.Path
        Folders of the job on this node.
    head : str or None
        Address of the cluster; None makes this node the head.
    """
    ours = share(environment)
    actors, store = ours.for_ray(head=head is None)
    chosen = ports(job, attempt)
    address = own_address(environment, None if head is None else head.rpartition(":")[0])
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        f"--node-ip-address={address}", f"--node-name={node}",
        f"--num-cpus={ours.cpus}", f"--num-gpus={ours.gpus}", f"--memory={actors}", f"--object-store-memory={store}",
        f"--temp-dir={temporary}", f"--object-spilling-directory={spill}",
        f"--node-manager-port={chosen['node_manager']}", f"--object-manager-port={chosen['object_manager']}",
        f"--dashboard-agent-listen-port={chosen['dashboard_agent']}",
        f"--runtime-env-agent-port={chosen['runtime_env_agent']}", f"--metrics-export-port={chosen['metrics']}",
        # Two raylets on one node would otherwise hand out the same ports; 0 leaves the choice to the system.
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    if head is not None:
        return [*command, f"--address={head}"], head
    dashboard = environment.get("SDOML_DASHBOARD", "0") not in ("", "0")
    command += [
        "--head", f"--port={chosen['gcs']}", f"--ray-client-server-port={chosen['client_server']}",
        f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={chosen['dashboard']}",
    ]  # fmt: skip
    return command, f"{address}:{chosen['gcs']}"


class Node:
    """Ray on one node of a job.

    Parameters
    ----------
    folder : pathlib.Path
        The job's folder, which all nodes share.
    head : bool
        Whether the cluster begins here.
    environment : mapping
        Of the step.
    """

    def __init__(self, folder: Path, head: bool, environment: Mapping[str, str]) -> None:
        self.folder, self.head, self.environment = folder, head, environment
        self.job = int(environment["SLURM_JOB_ID"])
        self.restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
        self.name = environment.get("SLURMD_NODENAME") or os.uname().nodename
        self.temporary = temporary_folder(environment, self.job)
        self.spill = spill_folder(environment, self.job, self.name, self.temporary)
        self.ended = threading.Event()
        self.signalled = threading.Event()
        self.started = threading.Event()
        self._ray: subprocess.Popen[str] | None = None

    def run(self) -> int:
        """Keep Ray running until the job ends, and return an exit code."""
        address = None if self.head else self._head_address()
        if not self.head and address is None:
            return ExitCode.COMPLETE
        try:
            for attempt in range(PORT_ATTEMPTS):
                code = self._once(attempt, address)
                if code is None or self.signalled.is_set():
                    return ExitCode.COMPLETE
                logger.warning("%s: Ray ended with %d (attempt %d)", self.name, code, attempt + 1)
                if self.started.is_set() and time.monotonic() - self._since > _EARLY_S:
                    break
            raise EnvironmentFault(f"{self.name}: Ray ended by itself.", "", f"See {self.folder}/ray-{self.name}.log")
        finally:
            self._end()
            for place in (self.temporary, self.spill):
                shutil.rmtree(place, ignore_errors=True)

    def _head_address(self) -> str | None:
        """Wait for the head's address; None if the job ends before."""
        path = address_path(self.folder, self.restart)
        while not (self.ended.wait(_POLL_S) or self.signalled.is_set()):
            if path.is_file():
                return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        return None

    def _once(self, attempt: int, head: str | None) -> int | None:
        """Start Ray and wait; return its exit code if it ended by itself, None if the job ended."""
        self.temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.spill.mkdir(parents=True, exist_ok=True, mode=0o700)
        command, address = ray_command(
            self.environment, node=self.name, job=self.job, attempt=attempt, temporary=self.temporary, spill=self.spill,
            head=head,
        )  # fmt: skip
        self._since = time.monotonic()
        self.started.clear()
        self._ray = subprocess.Popen(  # noqa: S603 - made above
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env=dict(self.environment),
        )  # fmt: skip
        options = [part for part in command if "=" in part]
        threading.Thread(target=self._listen, args=(self._ray, address, options), daemon=True).start()
        while not self.ended.wait(_POLL_S):
            code = self._ray.poll()
            if code is not None:
                return code
        return None

    def _listen(self, ray: subprocess.Popen[str], address: str, options: list[str]) -> None:
        """Copy what Ray says into the node's log, and tell when it runs."""
        assert ray.stdout is not None
        with (self.folder / f"ray-{self.name}.log").open("a", encoding="utf-8") as log:
            log.write(f"run {self.restart}: {' '.join(options)}\n")
            for line in ray.stdout:
                log.write(line)
                log.flush()
                if _STARTED in line:
                    self.started.set()
                    logger.info("%s: Ray runs; %s", self.name, " ".join(options))
                    if self.head:
                        told = {"address": address, "node": self.name, "unix_s": time.time()}
                        write_atomic(address_path(self.folder, self.restart), json.dumps(told).encode())

    def _end(self) -> None:
        """End this job's Ray and what it started; no other process of this node."""
        ray = self._ray
        if ray is None:
            return
        left = {process.pid: process for process in _ours(ray.pid, self.temporary)}
        if ray.poll() is None:
            ray.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ray.wait(_TERM_S)
        left |= {process.pid: process for process in _ours(ray.pid, self.temporary)}
        _, alive = psutil.wait_procs(list(left.values()), timeout=2)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)


def _ours(root: int, temporary: Path) -> list[psutil.Process]:
    """Return a process with its descendants, and all that were started with this job's temporary folder."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        found = [process, *process.children(recursive=True)]
    needle = f"{temporary}/"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid() and any(needle in part for part in process.cmdline()):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def main(arguments: list[str]) -> int:
    """Run a node; `arguments` are the job's folder and the name of the head's node."""
    configure_logging()
    environment = dict(os.environ)
    folder, name = Path(arguments[0]), environment.get("SLURMD_NODENAME", "")
    try:
        node = Node(folder, name == arguments[1], environment)
        # SLURM signals every process of a job that ends; Ray ends by that itself, and what is left to do is to clean up.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda *_: node.signalled.set())
        threading.Thread(target=_watch, args=(node.ended,), daemon=True).start()
        return node.run()
    except SdomlError as error:
        logger.error("%s: %s", name, error)
        restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
        write_atomic(fault_path(folder, restart, name), str(error).encode())
        return int(error.exit_code)


def _watch(ended: threading.Event) -> None:
    """Wait until the driver closes its end of the pipe, or is gone."""
    while os.read(0, 4096):
        pass
    ended.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
