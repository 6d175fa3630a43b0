"""One node of a SLURM job: start Ray there with what the job has of the node, and end it, and nothing else, with the job.

Runs as a step of the job, ``python -m sdoml_dist.engine.slurm_node FOLDER HEAD``, until its standard input ends. The job's
driver says :data:`END` before that; without it the driver is lost, and the job goes back into the queue if SLURM does not
see to that itself. A node writes its address, or what went wrong, into the job's folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
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
    RAY_FOLDER,
    own_address,
    ports,
    private_folder,
    share,
    spill_folder,
    temporary_folder,
)
from sdoml_dist.engine.slurm_queue import cancel, has_lost_its_script, job_name, requeue
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError
from sdoml_dist.redact import DiscreetFormatter

logger = logging.getLogger("sdoml")

END = b"end\n"
"""What the driver says to a step at the end of the job."""

_STARTED = "Ray runtime started"
_POLL_S = 0.2
_TERM_S = 20.0
# A Ray that ends so soon has not found its ports free; another block of ports is tried.
_EARLY_S = 30.0
# How long the head may take to answer, and how much longer than the driver itself a node waits for the head's address.
_ANSWER_S, _LATE_S = 10.0, 120.0
# First and longest pause between two questions to SLURM whether the driver's node is down: the controller is everybody's,
# and takes SlurmdTimeout (300 s where a site has not set it) to find out.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0


def configure_logging() -> None:
    """Send the messages of this package to standard error, with times in UTC and without secrets."""
    logging.Formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(DiscreetFormatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
    logger.setLevel(logging.INFO)


def address_path(folder: Path, restart: int) -> Path:
    """Return where the head's address is written; a requeued job must not read that of its former run."""
    return folder / f"address-{restart}.json"


def fault_path(folder: Path, restart: int, node: str) -> Path:
    """Return where a node writes why it could not start."""
    return folder / f"fault-{restart}-{node}.txt"


def dashboard(environment: Mapping[str, str]) -> bool:
    """Whether the site wants Ray's dashboard."""
    return environment.get("SDOML_DASHBOARD", "0") not in ("", "0")


def require_token(environment: Mapping[str, str]) -> None:
    """Refuse to start Ray without the token of the job.

    Raises
    ------
    EnvironmentFault
        If the environment does not name one, or it cannot be read.
    """
    mode, path = environment.get("RAY_AUTH_MODE"), environment.get("RAY_AUTH_TOKEN_PATH", "")
    try:
        token = Path(path).read_text(encoding="ascii").strip() if mode == "token" and path else ""
    except OSError as error:
        raise EnvironmentFault(
            f"The token of the job cannot be read: {error}", "Ray does not start without.",
            "The folder of submission, or SDOML_JOBS, has to be on a file system that all nodes share.",
        ) from None  # fmt: skip
    if not token:
        raise EnvironmentFault(
            f"This step has no token (RAY_AUTH_MODE={mode}, RAY_AUTH_TOKEN_PATH={path}).",
            "Everybody in the network could run programs on its Ray.",
            "Submit slurm/sdoml_ray.sbatch or slurm/sdoml_array.sbatch; they make one and hand it on.",
        )


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
        Folders of the job on this node; Ray's are below them.
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
        f"--temp-dir={temporary / RAY_FOLDER}", f"--object-spilling-directory={spill / RAY_FOLDER}",
        f"--node-manager-port={chosen['node_manager']}", f"--object-manager-port={chosen['object_manager']}",
        f"--dashboard-agent-listen-port={chosen['dashboard_agent']}",
        f"--runtime-env-agent-port={chosen['runtime_env_agent']}", f"--metrics-export-port={chosen['metrics']}",
        # Two raylets on one node would otherwise hand out the same ports; 0 leaves the choice to the system.
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    if head is not None:
        return [*command, f"--address={head}"], head
    command += [
        "--head", f"--port={chosen['gcs']}", f"--ray-client-server-port={chosen['client_server']}",
        f"--include-dashboard={str(dashboard(environment)).lower()}", "--dashboard-host=127.0.0.1",
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
        self._log = folder / f"ray-{self.name}.log"
        self.ended = threading.Event()
        self.told = threading.Event()
        self.signalled = threading.Event()
        self.started = threading.Event()
        self._ray: subprocess.Popen[str] | None = None

    def run(self) -> int:
        """Keep Ray running until the job ends, and return an exit code.

        Raises
        ------
        EnvironmentFault
            If Ray cannot start, or ends by itself.
        """
        ours: list[Path] = []
        try:
            for place in (self.temporary, self.spill):
                private_folder(place)
                ours.append(place)
            self._keep()
        finally:
            self._end()
            for place in ours:
                shutil.rmtree(place, ignore_errors=True)
        if not self.head:
            self._leave()
        return ExitCode.COMPLETE

    def _keep(self) -> None:
        """Start Ray, and return when the job has ended or the head is lost."""
        head = None if self.head else self._head_address()
        if not self.head and head is None:
            return
        for attempt in range(PORT_ATTEMPTS):
            code = self._once(attempt, head)
            if code is None or self.signalled.is_set() or not (head is None or _answers(head)):
                return
            logger.warning("%s: Ray ended with %d (attempt %d)", self.name, code, attempt + 1)
            if self.started.is_set() and time.monotonic() - self._since > _EARLY_S:
                break
        raise EnvironmentFault(f"{self.name}: Ray ended by itself.", "", f"See {self._log}")

    def _head_address(self) -> str | None:
        """Wait for the head's address; None if the job ends before, or if the driver should long have given up."""
        path = address_path(self.folder, self.restart)
        deadline = time.monotonic() + float(self.environment.get("SDOML_NODES_TIMEOUT") or 300) + _LATE_S
        while not (self.ended.wait(_POLL_S) or self.signalled.is_set() or time.monotonic() > deadline):
            if path.is_file():
                return str(json.loads(path.read_text(encoding="utf-8"))["address"])
        return None

    def _leave(self) -> None:
        """Return once the driver or SLURM has ended the job; put the job back into the queue if neither can.

        The node of the driver may be down. SLURM leaves a job with ``--no-kill`` running then, without its batch script.
        A job that ends in another way, or a driver that was killed on a living node, makes SLURM signal this step.
        """
        name, pause = job_name(self.environment), _FIRST_PAUSE_S
        if not (self.told.is_set() or self.signalled.is_set()):
            self._note("the driver is out of reach; Ray has ended here")
        while not self._over_within(pause):
            pause = min(1.5 * pause, _LONGEST_PAUSE_S)
            if not has_lost_its_script(name):
                continue
            fault = requeue(name)
            if not fault:
                self._note("the node of the driver is down; the job is requeued")
            # Another node may have been faster: only a job that is still there, and of no use, is cancelled.
            elif has_lost_its_script(name):
                self._note(
                    f"the node of the driver is down, and the job cannot be requeued ({fault}); it is cancelled; the same sbatch "
                    "command goes on"
                )
                cancel(name)

    def _note(self, text: str) -> None:
        """Write a line into the node's log: the job's own goes through the node of the driver."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")

    def _over_within(self, seconds: float) -> bool:
        """Wait for the driver's word or SLURM's signal; return whether one came."""
        deadline = time.monotonic() + seconds
        # No waiting for an event here: handlers of signals set one, in this very thread.
        while not (self.told.is_set() or self.signalled.is_set()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _once(self, attempt: int, head: str | None) -> int | None:
        """Start Ray and wait; return its exit code if it ended by itself, None if the job ended."""
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
        with self._log.open("a", encoding="utf-8") as log:
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


def _answers(address: str) -> bool:
    """Whether somebody listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


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
        require_token(environment)
        node = Node(folder, name == arguments[1], environment)
        # SLURM signals every process of a job that ends; Ray ends by that itself, and what is left to do is to clean up.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda *_: node.signalled.set())
        threading.Thread(target=_watch, args=(node,), daemon=True).start()
        return node.run()
    except SdomlError as error:
        logger.error("%s: %s", name, error)
        restart = int(environment.get("SLURM_RESTART_COUNT", "0"))
        write_atomic(fault_path(folder, restart, name), str(error).encode())
        return int(error.exit_code)


def _watch(node: Node) -> None:
    """Wait until the driver closes its end of the pipe, or is gone."""
    said = b""
    while part := os.read(0, 4096):
        said += part
    if said.endswith(END):
        node.told.set()
    node.ended.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
