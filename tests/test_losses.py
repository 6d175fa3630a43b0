"""Losses on a cluster of three Ray workers and an S3 server (moto), each a host of its own: power, network, objects, room.

Every run ends complete, or stops with its exit code and the same command completes it; bit for bit as if nothing had been.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from sdoml_dist.errors import ExitCode
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.finalise import finalise
from tests import test_emergence_crash as emergence
from tests.servers.hosts import Eye, Hosts, ObjectServer, ray_hosts, wait_until, why_not
from tests.test_build import contents, same
from tests.test_crash import done_frames, finish, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CPUS = (0, 1, 1, 1)
SDOML = [sys.executable, "-m", "sdoml_dist"]


@dataclass
class World:
    """The hosts, what looks at them, and a small disk."""

    hosts: Hosts
    objects: ObjectServer
    eye: Eye
    disk: Path
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str) -> subprocess.Popen[str]:
        run = self.hosts.run(0, [*SDOML, *command], environment={"RAY_ADDRESS": self.hosts.ray_address})
        self.runs.append(run)
        return run

    def place(self, name: str) -> dict[str, str]:
        return {"url": f"s3://sdoml/{name}", "endpoint_url": self.objects.url}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start a head without work, three workers of one CPU, and a host with an S3 server; mount a disk of 40 MB."""
    folder = tmp_path_factory.mktemp("losses")
    disk = folder / "disk"
    disk.mkdir()
    if (reason := why_not()) is not None:
        pytest.skip(f"no hosts can be made here: {reason}")
    # Hosts see what is mounted when they start.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(disk)], check=True)
    try:
        with ray_hosts(CPUS, folder, others=1) as hosts:
            objects, eye = hosts.serve_objects(len(CPUS)), Eye(hosts, 0)
            yield World(hosts, objects, eye, disk)
            eye.close()
            objects.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(autouse=True)
def whole(world: World) -> Iterator[None]:
    """Begin every test with all hosts, and end what it has left."""
    world.hosts.revive(CPUS)
    yield
    for run in world.runs:
        if run.poll() is None:
            run.kill()
            run.communicate()
    world.runs.clear()


def alone(recipe: Path) -> dict[str, np.ndarray]:
    """Build a dataset unit after unit in this process, and return its contents."""
    plan = Plan(parse_recipe(yaml.safe_load(recipe.read_text())))
    dataset = Dataset(plan, calibration_identity(plan.recipe))
    worker = Preprocessor(plan.recipe, dataset.fork_bytes)
    dataset.commit([worker.process(*task) for task in dataset.pending()], "all", {})
    finalise(dataset)
    return contents(plan.recipe.store.url)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return alone(write_recipe(tmp_path_factory.mktemp("whole"), "whole"))


def complete(world: World, command: list[str], run: subprocess.Popen[str], last: ExitCode) -> list[int]:
    """See a command through: repeat it as long as it stops for its environment, and return all exit codes."""
    codes = []
    for _ in range(4):
        code, _, err = finish(run, 500)
        codes.append(code)
        if code != ExitCode.ENVIRONMENT:
            assert code == last, err
            return codes
        run = world.start(*command)
    raise AssertionError(f"never complete: {codes}\n{err}")


def test_a_build_goes_on_without_a_host_and_without_the_network_of_another(world: World, tmp_path: Path) -> None:
    """Long enough that the host whose network is gone for a minute comes back before the end."""
    period = {"start": "2011-02-15T00:00", "end": "2011-02-16T00:00"}
    expected = alone(write_recipe(tmp_path, "whole", period=period))
    place = world.place("network")
    recipe = write_recipe(tmp_path, "d", store=place, period=period)
    command = ["build", str(recipe)]
    run = world.start(*command)
    wait_until(lambda: world.eye.frames(**place) >= 4, run)
    world.hosts.power_off(3)
    wait_until(lambda: world.eye.frames(**place) >= 12, run)
    world.hosts.link(2, up=False)
    cut = time.monotonic()
    while run.poll() is None and time.monotonic() - cut < 60:
        time.sleep(0.5)
    assert run.poll() is None
    world.hosts.link(2, up=True)
    assert complete(world, command, run, ExitCode.FRAMES_FAILED) == [ExitCode.FRAMES_FAILED]
    same(expected, world.eye.contents(tmp_path, **place))


@pytest.mark.parametrize("how", ["killed", "unreachable"])
def test_the_object_store_is_gone_for_ten_seconds(
    world: World, tmp_path: Path, undisturbed: dict[str, np.ndarray], how: str
) -> None:
    place = world.place(how)
    recipe = write_recipe(tmp_path, "d", store=place)
    command = ["build", str(recipe)]
    run = world.start(*command)
    wait_until(lambda: world.eye.frames(**place) >= 6, run)
    if how == "killed":
        world.objects.kill()
    else:
        world.hosts.link(world.objects.host, up=False)
    time.sleep(10)
    if how == "killed":
        world.objects.restart()
    else:
        world.hosts.link(world.objects.host, up=True)
    complete(world, command, run, ExitCode.FRAMES_FAILED)
    same(undisturbed, world.eye.contents(tmp_path, **place))


def fill(ballast: Path) -> None:
    """Leave no room on a disk."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**14))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_disk_that_fills_up_in_the_middle(world: World, tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    recipe, store = write_recipe(tmp_path, "d", store={"url": str(world.disk / "d")}), str(world.disk / "d")
    run = world.start("build", str(recipe))
    wait_until(lambda: done_frames(store) >= 6, run)
    ballast = world.disk / "ballast"
    fill(ballast)
    code, _, err = finish(run, 500)
    assert code == ExitCode.ENVIRONMENT, err
    assert "space" in err.lower()
    # Readers see whole commits meanwhile.
    seen = done_frames(store)
    assert 6 <= seen < 80
    ballast.unlink()
    code, _, err = finish(world.start("build", str(recipe)), 500)
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(store))


def test_an_emergence_build_loses_a_host_in_two_stages(world: World, tmp_path: Path) -> None:
    expected = emergence.crash_recipe(tmp_path, "whole")
    emergence.drive(emergence.EmergenceRecipe.model_validate(yaml.safe_load(expected.read_text())))
    recipe, store = emergence.crash_recipe(tmp_path, "d"), tmp_path / "d"
    run = world.start("emergence", "build", str(recipe))
    wait_until(lambda: len(emergence.history(store, "track")) >= 3, run)
    world.hosts.power_off(1)
    wait_until(lambda: len(emergence.history(store, "power")) >= 2, run)
    world.hosts.power_off(2)
    code, _, err = finish(run, 500)
    assert code == ExitCode.FRAMES_FAILED, err
    assert emergence.committed(store) > 0
    same(emergence.contents(tmp_path / "whole"), emergence.contents(store))


def test_history_counts_every_unit_that_was_committed(world: World, tmp_path: Path) -> None:
    """A host dies in every run; what was committed is written down once per commit of it."""
    recipe, store = write_recipe(tmp_path, "d"), tmp_path / "d"
    run = world.start("build", str(recipe))
    wait_until(lambda: done_frames(str(store)) >= 6, run)
    world.hosts.power_off(1)
    code, _, err = finish(run, 500)
    assert code == ExitCode.FRAMES_FAILED, err
    parts = store.glob("sdoml/runs/*/history-*.jsonl")
    units = [json.loads(line)["unit"] for part in parts for line in part.read_text().splitlines()]
    plan = Plan(parse_recipe(yaml.safe_load(recipe.read_text())))
    assert sorted(units) == sorted(unit.unit_id for unit in plan.units())
