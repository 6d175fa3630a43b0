"""Ray's head loses power in the middle of a build, whose driver is elsewhere: what is committed stays, a new cluster goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.errors import ExitCode
from tests.servers.hosts import ray_hosts, wait_until
from tests.test_build import contents, same
from tests.test_crash import done_frames, finish, undisturbed, write_recipe  # noqa: F401 - undisturbed is a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BUILD = [sys.executable, "-m", "sdoml_dist", "build"]


def test_the_head_loses_power(tmp_path: Path, undisturbed: dict[str, Any]) -> None:  # noqa: F811
    recipe, store = write_recipe(tmp_path, "d"), str(tmp_path / "d")
    with ray_hosts((0, 1, 1), tmp_path / "first") as hosts:
        run = hosts.run(1, [*BUILD, str(recipe)], environment={"RAY_ADDRESS": hosts.ray_address}, beside_ray=True)
        wait_until(lambda: done_frames(store) >= 8, run)
        hosts.power_off(0)
        code, out, err = finish(run, 300)
    assert code == ExitCode.ENVIRONMENT, out + err
    assert "Ray's head at 10.77.6.1:6379 has taken no connection" in err
    assert "give the same command again" in err
    record = json.loads(next((tmp_path / "d").glob("sdoml/runs/*/run.json")).read_text())
    assert record["exit_code"] == int(ExitCode.ENVIRONMENT)
    assert 8 <= done_frames(store) < 80
    with ray_hosts((0, 1, 1), tmp_path / "second") as hosts:
        run = hosts.run(0, [*BUILD, str(recipe)], environment={"RAY_ADDRESS": hosts.ray_address})
        code, _, err = finish(run, 300)
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(store))
