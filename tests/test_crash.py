"""The crash law: whatever is killed, the same command ends with the dataset of an undisturbed run, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sdoml_dist.errors import ExitCode
from sdoml_dist.store.reader import accounting
from tests.conftest import small
from tests.test_build import contents, same

pytestmark = pytest.mark.timeout(900)
PERIOD = {"start": "2011-02-15T00:00", "end": "2011-02-15T04:00"}


def write_recipe(folder: Path, name: str, **changes: Any) -> Path:
    data = small(str(folder / name), period=PERIOD, resources={"commit_every_units": 1}) | changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sdoml_dist", "build", str(recipe), "--cpus", "2", "--wait", "60"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(run: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
    out, err = run.communicate(timeout=timeout)
    return run.returncode, out, err


def end_leftovers(children: list[psutil.Process]) -> None:
    """End the Ray processes that a killed driver left behind, by their ids."""
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=10)


def done_frames(store: str, **options: Any) -> int:
    try:
        table = accounting(store, **options)
    except Exception:
        return -1
    return int(table.loc["all", "planned"] - table.loc["all", "pending"])


def wait_for_frames(run: subprocess.Popen[str], store: str, number: int, **options: Any) -> list[psutil.Process]:
    """Wait until so many frames are committed and return the driver's descendants."""
    deadline = time.monotonic() + 240
    while done_frames(store, **options) < number:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(run.pid).children(recursive=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = finish(start(write_recipe(folder, "whole")))
    assert code == ExitCode.FRAMES_FAILED, err
    return contents(str(folder / "whole"))


def test_a_killed_driver_and_worker_leave_no_trace(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    recipe, store = write_recipe(tmp_path, "d"), str(tmp_path / "d")
    generator = random.Random(1)
    for attempt in range(2):
        before = max(done_frames(store), 0)
        run = start(recipe)
        children = wait_for_frames(run, store, min(before + generator.randint(1, 20), 72))
        if attempt == 0:
            workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
            assert workers
            workers[0].kill()
            time.sleep(generator.uniform(0, 1.5))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        end_leftovers(children)
        # Readers see whole commits only.
        seen = accounting(store)
        assert (seen[["ok", "missing", "rejected", "failed", "pending"]].sum(axis=1) == seen.planned).all()
    code, _, err = finish(start(recipe))
    assert code == ExitCode.FRAMES_FAILED, err
    assert "resumed:" in err
    same(undisturbed, contents(store))


def test_sigterm_drains_commits_and_the_same_command_resumes(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    recipe, store = write_recipe(tmp_path, "d"), str(tmp_path / "d")
    run = start(recipe)
    wait_for_frames(run, store, 8)
    run.send_signal(signal.SIGTERM)
    code, _, err = finish(run, 60)
    assert code == ExitCode.STOPPED, err
    assert "Stopped by SIGTERM" in err
    record = json.loads(sorted(Path(store).glob("sdoml/runs/*/run.json"))[-1].read_text())
    assert (record["state"], record["exit_code"]) == ("ended", int(ExitCode.STOPPED))
    history = "".join(part.read_text() for part in Path(store).glob("sdoml/runs/*/history-*.jsonl")).splitlines()
    units = [json.loads(line) for line in history]
    # Nothing under way was lost: every unit that was started is committed.
    assert sum(unit["frames"] for unit in units) == done_frames(store) < 80
    code, _, err = finish(start(recipe))
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(store))


@pytest.mark.slow
def test_a_killed_driver_on_s3(tmp_path: Path, undisturbed: dict[str, Any], s3_server: str) -> None:
    place = {"url": "s3://sdoml/crash", "endpoint_url": s3_server}
    recipe = write_recipe(tmp_path, "d", store=place)
    run = start(recipe)
    children = wait_for_frames(run, place["url"], 10, endpoint_url=s3_server)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    end_leftovers(children)
    code, _, err = finish(start(recipe))
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(place["url"], endpoint_url=s3_server))


@pytest.mark.slow
@pytest.mark.parametrize("product", ["hmi", "eve"])
def test_a_killed_driver_of_other_products(tmp_path: Path, product: str) -> None:
    """One record makes three channels, one file sixty slots: the law is the same."""
    series = {"cadence": "1min", "tolerance": "0s", "channels": ["Fe XX", "C III"], "chunking": {"shard_slots": 30}}
    images = {"cadence": "12min", "tolerance": "2min", "channels": ["Bx", "By", "Bz"], "chunking": {"shard_slots": 2}}
    simulation = {"pixels": 256, "missing_rate": 0.1, "corrupt_rate": 0.1}
    changes = {"product": product, "source": {"kind": "simulator", "simulation": simulation}}
    changes |= series if product == "eve" else images
    whole = write_recipe(tmp_path, "whole", **changes)
    expected, _, err = finish(start(whole))
    assert expected in (ExitCode.COMPLETE, ExitCode.FRAMES_FAILED), err
    recipe, store = write_recipe(tmp_path, "d", **changes), str(tmp_path / "d")
    run = start(recipe)
    children = wait_for_frames(run, store, 9)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    end_leftovers(children)
    assert done_frames(store) > 0
    code, _, err = finish(start(recipe))
    assert code == expected, err
    same(contents(str(tmp_path / "whole")), contents(store))


@pytest.mark.slow
def test_a_full_disk_ends_with_its_code_and_resumes(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1100k", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        recipe = write_recipe(tmp_path, "d", store={"url": str(place / "d")})
        code, _, err = finish(start(recipe))
        assert code == ExitCode.ENVIRONMENT, err
        # Either the comparison beforehand says how much is missing, or the file system does in the middle.
        assert "are free" in err or "space" in err.lower()
        subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True)
        code, _, err = finish(start(recipe))
        assert code == ExitCode.FRAMES_FAILED, err
        same(undisturbed, contents(str(place / "d")))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
