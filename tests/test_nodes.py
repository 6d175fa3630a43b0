"""A build on a real Ray cluster of several hosts: by RAY_ADDRESS, by `ray job submit`, and with hosts that are lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.errors import ExitCode
from tests.conftest import ROOT
from tests.servers.hosts import DASHBOARD_PORT, Hosts, ray_hosts, wait_until
from tests.test_build import contents, same
from tests.test_crash import done_frames, finish, undisturbed, write_recipe  # noqa: F401 - undisturbed is a fixture

pytestmark = pytest.mark.slow
BUILD = [sys.executable, "-m", "sdoml_dist", "build"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head without work and three workers of one CPU."""
    with ray_hosts((0, 1, 1, 1), tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def drive(hosts: Hosts, recipe: Path) -> subprocess.Popen[str]:
    return hosts.run(0, [*BUILD, str(recipe)], environment={"RAY_ADDRESS": hosts.ray_address})


def nodes_used(store: Path) -> set[str]:
    parts = store.glob("sdoml/runs/*/history-*.jsonl")
    return {json.loads(line)["node"] for part in parts for line in part.read_text().splitlines()}


def test_ray_job_submit(hosts: Hosts, tmp_path: Path, undisturbed: dict[str, Any]) -> None:  # noqa: F811
    recipe = write_recipe(tmp_path, "d")
    address = f"http://{hosts.address(0)}:{DASHBOARD_PORT}"
    command = ["ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--"]
    run = hosts.run(0, [*command, sys.executable, "jobs/build.py", "build", str(recipe)])
    code, out, err = finish(run, 180)
    # Ray reduces every failure to 1; the run's record keeps the true code.
    assert code == 1, out + err
    assert "frames/s" in out + err
    record = json.loads(next((tmp_path / "d").glob("sdoml/runs/*/run.json")).read_text())
    assert record["exit_code"] == int(ExitCode.FRAMES_FAILED)
    assert len(nodes_used(tmp_path / "d")) > 1
    same(undisturbed, contents(str(tmp_path / "d")))


def test_hosts_that_fall_silent_or_lose_power(hosts: Hosts, tmp_path: Path, undisturbed: dict[str, Any]) -> None:  # noqa: F811
    recipe, store = write_recipe(tmp_path, "d"), str(tmp_path / "d")
    run = drive(hosts, recipe)
    wait_until(lambda: done_frames(store) >= 4, run)
    hosts.power_off(3)
    wait_until(lambda: done_frames(store) >= 12, run)
    hosts.link(2, up=False)
    code, _, err = finish(run, 240)
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(store))
