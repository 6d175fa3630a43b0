"""Random faults for some minutes: whatever dies when, the dataset ends bit for bit as if nothing had been.

The seed is printed and may be set: ``SDOML_CHAOS_SEED=7 SDOML_CHAOS_SECONDS=600 pytest -m slow tests/test_chaos.py``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sdoml_dist.errors import ExitCode
from tests.servers.hosts import Eye, Hosts, ObjectServer, ray_hosts
from tests.test_build import same
from tests.test_crash import finish, write_recipe
from tests.test_losses import alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
CPUS = (0, 1, 1, 1)
SEED = int(os.environ.get("SDOML_CHAOS_SEED", "20110215"))
SECONDS = float(os.environ.get("SDOML_CHAOS_SECONDS", "120"))
# Two hundred frames in fifty units: more than are done while faults come.
PERIOD = {"start": "2011-02-15T00:00", "end": "2011-02-15T10:00"}


class Chaos:
    """A build on a cluster, and what can befall it."""

    def __init__(self, hosts: Hosts, objects: ObjectServer, eye: Eye, recipe: Path, place: dict[str, str]) -> None:
        self.hosts, self.objects, self.eye, self.recipe, self.place = hosts, objects, eye, recipe, place
        self.random = random.Random(SEED)
        self.done: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.run = self.start()

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sdoml_dist", "build", str(self.recipe), "--wait", "60"]
        return self.hosts.run(0, command, environment={"RAY_ADDRESS": self.hosts.ray_address})

    def kill_driver(self) -> None:
        self.run.kill()

    def stop_driver(self) -> None:
        self.run.send_signal(signal.SIGTERM)

    def kill_worker(self) -> None:
        host = self.random.randint(1, 3)
        process = self.hosts.process(host)
        if process is None:
            return
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return
        for worker in workers[:1]:
            worker.kill()

    def power_off(self) -> None:
        host = self.random.randint(1, 3)
        if self.hosts.process(host) is not None:
            self.hosts.power_off(host)
            time.sleep(self.random.uniform(0, 3))
            self.hosts.start_ray(host, CPUS[host])

    def blink(self) -> None:
        """Take the cable of a worker out for some seconds: too short to be given up, or not."""
        host = self.random.randint(1, 3)
        self.hosts.link(host, up=False)
        time.sleep(self.random.uniform(0.5, 8))
        self.hosts.link(host, up=True)

    def store_dies(self) -> None:
        self.objects.kill()
        time.sleep(self.random.uniform(0.5, 10))
        self.objects.restart()

    def store_hangs(self) -> None:
        with self.objects.hanging():
            time.sleep(self.random.uniform(0.5, 10))

    def step(self) -> None:
        """Let something happen, and start the driver again if it has ended."""
        faults: list[Callable[[], None]] = [
            self.kill_driver, self.stop_driver, self.kill_worker, self.kill_worker, self.power_off, self.blink,
            self.store_dies, self.store_hangs,
        ]  # fmt: skip
        time.sleep(self.random.uniform(1, 8))
        fault = self.random.choice(faults)
        self.done[fault.__name__] += 1
        fault()
        self.settle()

    def settle(self) -> None:
        """Let a driver that has ended be followed by another one; a host that gave up, by its successor."""
        if self.run.poll() is None:
            return
        code, _, err = finish(self.run)
        self.codes[code] += 1
        allowed = (ExitCode.FRAMES_FAILED, ExitCode.ENVIRONMENT, ExitCode.STOPPED, -signal.SIGKILL, -signal.SIGTERM)
        # Before Python has set its handlers SIGTERM ends it.
        assert code in allowed, f"seed {SEED}: exit code {code}\n{err}"
        if code != ExitCode.FRAMES_FAILED:
            self.hosts.revive(CPUS)
            self.run = self.start()

    @property
    def complete(self) -> bool:
        """Whether a driver has come to the end."""
        return self.codes[ExitCode.FRAMES_FAILED] > 0


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    folder = tmp_path_factory.mktemp("chaos")
    with ray_hosts(CPUS, folder, others=1) as hosts:
        objects, eye = hosts.serve_objects(len(CPUS)), Eye(hosts, 0)
        place = {"url": "s3://sdoml/chaos", "endpoint_url": objects.url}
        resources = {"commit_every_units": 2, "drain_s": 30}
        recipe = write_recipe(folder, "d", store=place, period=PERIOD, resources=resources)
        chaos = Chaos(hosts, objects, eye, recipe, place)
        yield chaos
        if chaos.run.poll() is None:
            chaos.kill_driver()
        eye.close()
        objects.close()


def test_random_faults_leave_no_trace(chaos: Chaos, tmp_path: Path) -> None:
    print(f"seed {SEED} (SDOML_CHAOS_SEED)")
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not chaos.complete:
        chaos.step()
    # Then peace: the same command completes what is left.
    chaos.hosts.revive(CPUS)
    for _ in range(4):
        if chaos.complete:
            break
        chaos.run.wait(500)
        chaos.settle()
    print(f"faults {dict(chaos.done)}, exit codes {dict(chaos.codes)}")
    assert chaos.complete, f"seed {SEED}: {chaos.codes}"
    assert chaos.done.total() >= 3
    expected = alone(write_recipe(tmp_path, "whole", period=PERIOD))
    same(expected, chaos.eye.contents(tmp_path, **chaos.place))
