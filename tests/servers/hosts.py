"""Several hosts on one machine: each has its own network, process, host-name and mount namespaces.

A power cut is a SIGKILL of the host's first process (the kernel ends all others with it); a silent loss is its link taken
down. Needs root, iproute2 and util-linux. The hosts share the file system, as compute nodes share a parallel one, except
for /tmp/ray.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

_SUBNET = "10.77.6"
_S3_PORT, _S3_BEHIND = 9000, 9001
_HEAD_PORT = 6379
DASHBOARD_PORT = 8265
# Losses are noticed within seconds instead of a minute.
_QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
}


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


class Hosts:
    """Hosts 0 to n-1 on one switch; host 0 carries Ray's head."""

    def __init__(self, number: int, folder: Path) -> None:
        self.tag, self.folder, self.number = "s" + uuid.uuid4().hex[:4], folder, number
        self._switch = f"{self.tag}sw"
        self._processes: dict[int, subprocess.Popen[str]] = {}
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for host in range(number):
            self._add(host)

    def name(self, host: int) -> str:
        return f"{self.tag}n{host}"

    def address(self, host: int) -> str:
        return f"{_SUBNET}.{host + 1}"

    @property
    def ray_address(self) -> str:
        return f"{self.address(0)}:{_HEAD_PORT}"

    def _add(self, host: int) -> None:
        name = self.name(host)
        _ip("netns", "add", name)
        _ip("-n", self._switch, "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._switch, "link", "set", f"v{host}", "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        # Ray finds its own address by the route it would take to the internet.
        _ip("-n", name, "route", "add", "default", "dev", "eth0")
        configuration = Path("/etc/netns") / name
        configuration.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{self.address(other)} {self.name(other)}" for other in range(self.number))]
        (configuration / "hosts").write_text("\n".join(lines) + "\n")
        (configuration / "resolv.conf").write_text("")

    def run(
        self,
        host: int,
        command: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        own_processes: bool = False,
        beside_ray: bool = False,
        standard_input: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a command on a host; with `own_processes` it is the host's first process.

        A Ray node with CPUs lets nothing work for a driver whose process it cannot see: that needs `beside_ray`, and loses
        power with its host.
        """
        private = self.folder / f"ray{host}"
        private.mkdir(parents=True, exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        namespaces = ["--uts", "--mount"]
        if own_processes:
            namespaces += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        inside = f'hostname {self.name(host)}; mount --bind "{private}" /tmp/ray; exec "$@"'
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        enter = ["ip", "netns", "exec", self.name(host), "unshare", *namespaces, "sh", "-c", inside, "sh"]
        if beside_ray:
            (first,) = psutil.Process(self._processes[host].pid).children()
            enter = ["nsenter", f"--target={first.pid}", "--mount", "--uts", "--net", "--pid", f"--wd={Path.cwd()}"]
        log = (self.folder / f"host{host}-{len(list(self.folder.glob('*.log')))}.log").open("w")
        with log:
            return subprocess.Popen(
                [*enter, *command],
                env={**os.environ, **_QUICK_HEALTH_CHECKS, "PATH": path, **(environment or {})}, text=True,
                stdin=subprocess.PIPE if standard_input else subprocess.DEVNULL,
                stdout=log if own_processes else subprocess.PIPE, stderr=subprocess.STDOUT if own_processes else subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip

    def start_ray(self, host: int, cpus: int) -> None:
        """Start Ray on a host; host 0 becomes the head."""
        command = [
            "ray", "start", "--block", f"--node-ip-address={self.address(host)}", f"--num-cpus={cpus}",
            "--object-store-memory=100000000", "--memory=4000000000", "--disable-usage-stats",
            "--min-worker-port=20000", "--max-worker-port=20200",
        ]  # fmt: skip
        if host == 0:
            command += [
                "--head",
                f"--port={_HEAD_PORT}",
                "--dashboard-host=0.0.0.0",
                f"--dashboard-port={DASHBOARD_PORT}",
            ]
        else:
            command += [f"--address={self.ray_address}"]
        self._processes[host] = self.run(host, command, own_processes=True)

    def wait_for_nodes(self, number: int, timeout: float = 240) -> None:
        """Wait until so many Ray nodes live."""
        code = (
            "import time\nfrom ray._raylet import GcsClient\n"
            f"end = time.time() + {timeout}\n"
            "while time.time() < end:\n"
            "    try:\n"
            f"        nodes = GcsClient(address='{self.ray_address}').get_all_node_info(timeout=2).values()\n"
            f"        if sum(node.state == 0 for node in nodes) == {number}: raise SystemExit(0)\n"
            "    except Exception: pass\n"
            "    time.sleep(0.2)\n"
            "raise SystemExit(1)\n"
        )
        waiting = self.run(0, [sys.executable, "-c", code])
        assert waiting.wait(timeout + 20) == 0, "Ray's nodes did not come up: " + self.logs()

    def logs(self) -> str:
        """Return the ends of the hosts' logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def power_off(self, host: int) -> None:
        """End everything on a host at once."""
        process = self._processes.pop(host)
        process.kill()
        process.wait(10)

    def process(self, host: int) -> subprocess.Popen[str] | None:
        """Return the first process of a host, or None if it has no power."""
        process = self._processes.get(host)
        return process if process is not None and process.poll() is None else None

    def revive(self, cpus: Sequence[int]) -> None:
        """Make every host of a Ray cluster live and reachable again, after whatever happened to it."""
        for host in range(len(cpus)):
            self.link(host, up=True)
        for _ in range(3):
            living = self.nodes()
            lost = [host for host in range(len(cpus)) if host not in living]
            assert 0 not in lost, "the head is gone: " + self.logs()
            if not lost:
                break
            for host in lost:
                # A raylet that was cut off ends itself once it hears that it was given up.
                if host in self._processes:
                    self.power_off(host)
                self.start_ray(host, cpus[host])
            for host in lost:
                self._joined(host)
        self.wait_for_nodes(len(cpus))

    def _joined(self, host: int, timeout: float = 120) -> bool:
        """Wait until a host's Ray node lives, or has given itself up: Ray does so where it takes too long to start."""
        deadline = time.monotonic() + timeout
        while self.process(host) is not None and time.monotonic() < deadline:
            if host in self.nodes():
                return True
        return False

    def start_cluster(self, cpus: Sequence[int]) -> None:
        """Start Ray on every host, the head first; those that give themselves up on a busy machine once more."""
        waiting = list(enumerate(cpus))
        for _ in range(4):
            # The others give up soon where there is no head yet.
            now = waiting[:1] if waiting[0][0] == 0 else waiting
            for host, number in now:
                self.start_ray(host, number)
            lacking = [(host, number) for host, number in now if not self._joined(host)]
            for host, _number in lacking:
                self.power_off(host)
            waiting = lacking + waiting[len(now) :]
            if not waiting:
                return
        raise AssertionError("Ray's nodes did not come up: " + self.logs())

    def nodes(self) -> set[int]:
        """Return the hosts whose Ray nodes live; none if there is no head."""
        code = (
            "from ray._raylet import GcsClient\n"
            f"nodes = GcsClient(address='{self.ray_address}').get_all_node_info(timeout=20).values()\n"
            "print(*(node.node_manager_address for node in nodes if node.state == 0))\n"
        )
        out, _ = self.run(0, [sys.executable, "-c", code]).communicate(timeout=120)
        return {int(address.rsplit(".", 1)[1]) - 1 for address in out.split()}

    def link(self, host: int, *, up: bool) -> None:
        """Take a host's cable out or put it back."""
        _ip("-n", self._switch, "link", "set", f"v{host}", "up" if up else "down")

    def serve_objects(self, host: int) -> ObjectServer:
        """Start an S3 server with a bucket ``sdoml`` on a host."""
        return ObjectServer(self, host)

    def close(self) -> None:
        """Power everything off and remove the namespaces."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(10)
        for host in range(self.number):
            _ip("netns", "del", self.name(host), check=False)
            shutil.rmtree(Path("/etc/netns") / self.name(host), ignore_errors=True)
        _ip("netns", "del", self._switch, check=False)


class ObjectServer:
    """An S3 server (moto behind a relay, see :mod:`tests.servers.objects`) that can die, hang and come back."""

    def __init__(self, hosts: Hosts, host: int) -> None:
        self.hosts, self.host = hosts, host
        self.url = f"http://{hosts.address(host)}:{_S3_PORT}"
        self._behind = self._start("serve", str(_S3_BEHIND))
        self._front = self._relay()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.hosts.run(
            self.host, [sys.executable, "-m", "tests.servers.objects", *arguments], own_processes=True
        )

    def _relay(self) -> subprocess.Popen[str]:
        return self._start("relay", self.hosts.address(self.host), str(_S3_PORT), str(_S3_BEHIND))

    def kill(self) -> None:
        """End the process that takes connections: those that are open break, new ones are refused."""
        self._front.kill()
        self._front.wait(10)

    def restart(self) -> None:
        """Take connections again."""
        self._front = self._relay()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let connections be taken and nothing be answered meanwhile."""
        # The first process of the host's namespaces is a child of the one that was started.
        relays = [psutil.Process(self._front.pid), *psutil.Process(self._front.pid).children(recursive=True)]
        for relay in relays:
            relay.suspend()
        try:
            yield
        finally:
            for relay in relays:
                relay.resume()

    def close(self) -> None:
        """End the server."""
        for process in (self._front, self._behind):
            process.kill()
            process.wait(10)


class Eye:
    """Looks at datasets from inside a host's network (:mod:`tests.servers.eye`)."""

    def __init__(self, hosts: Hosts, host: int) -> None:
        self._process = hosts.run(host, [sys.executable, "-m", "tests.servers.eye"], standard_input=True)

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        reply = json.loads(line)
        assert "error" not in reply, reply
        return reply["answer"]

    def frames(self, url: str, **options: Any) -> int:
        """Count the frames that are done; -1 where there is no dataset yet."""
        return int(self._ask(do="frames", url=url, **options))

    def contents(self, folder: Path, url: str, **options: Any) -> dict[str, Any]:
        """Return every array of a dataset."""
        path = folder / f"contents-{uuid.uuid4().hex}"
        self._ask(do="contents", url=url, to=str(path), **options)
        arrays: dict[str, Any] = pickle.loads(path.read_bytes())
        return arrays

    def close(self) -> None:
        """End looking."""
        self._process.kill()
        self._process.communicate()


def why_not() -> str | None:
    """Return why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "iproute2 or util-linux is not installed"
    name = f"probe{uuid.uuid4().hex[:6]}"
    made = _ip("netns", "add", name, check=False)
    _ip("netns", "del", name, check=False)
    return made.stderr.strip() or "network namespaces are refused" if made.returncode else None


@contextmanager
def ray_hosts(cpus: Sequence[int], folder: Path, others: int = 0) -> Iterator[Hosts]:
    """Start a Ray cluster with one host per entry of `cpus`, and some hosts without Ray, or skip the test."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no hosts can be made here: {reason}")
    hosts = Hosts(len(cpus) + others, folder)
    try:
        hosts.start_cluster(cpus)
        yield hosts
    finally:
        hosts.close()


def wait_until(condition: Callable[[], bool], run: subprocess.Popen[str], timeout: float = 400) -> None:
    """Wait for a condition while a run lives."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, "the condition was never met"
        time.sleep(0.1)
