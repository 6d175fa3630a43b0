"""Very many units: the driver's memory, the count of units, and the plan of the whole mission."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from benchmarks.scale import drive, report
from sdoml_dist.errors import ExitCode
from sdoml_dist.plan import Plan
from tests.conftest import ROOT

UNITS = 400
# A receipt has some 110 KiB: a driver that kept them would be found out.
_MOST_BYTES_PER_UNIT = 60_000


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_unit_counts_and_the_driver_keeps_none(tmp_path: Path, ray_cluster: Any) -> None:
    store = str(tmp_path / "d")
    summary, log, recipe = drive(UNITS, 2, store, commit_every=32)
    figures = report(summary, log, recipe)
    units = list(Plan(recipe).units())
    assert summary.exit_code is ExitCode.COMPLETE
    assert figures["units_done"] == len(units) >= UNITS
    assert summary.outcomes == {"ok": sum(unit.stop - unit.start for unit in units)}
    assert sum(log.per_commit) == len(units)
    # The first part warms the driver up: threads, zarr's and Ray's code, buffers.
    half = int(np.searchsorted(log.units, len(units) / 2))
    assert (log.memory[-1] - log.memory[half]) / (log.units[-1] - log.units[half]) < _MOST_BYTES_PER_UNIT, log.memory
    # Every unit is in the run's history once, and all its frames in the dataset.
    lines = [
        json.loads(line)
        for part in Path(store).glob("sdoml/runs/*/history-*.jsonl")
        for line in part.read_text().splitlines()
    ]
    assert sorted(line["unit"] for line in lines) == sorted(unit.unit_id for unit in units)
    table = sdoml_dist.accounting(store)
    assert (table.ok == table.planned).all()


def test_the_full_mission_is_planned_in_little_time_and_memory(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from sdoml_dist.cli import main\n"
        "code = main(['plan', 'full-mission', '--json', '--nodes', '8', '--cpus-per-node', '64', "
        "'--memory-per-node', '256GB'])\n"
        # Not ru_maxrss, which begins with what the parent had when it forked.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) * 1024, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - start < 10
    assert int(run.stderr.split()[-1]) < 1e9
    data = json.loads(run.stdout)
    assert [part["product"] for part in data["products"]] == ["aia", "hmi", "eve"]
    for key in ("frames", "units", "stored_bytes", "raw_bytes", "objects", "source_bytes", "core_hours"):
        assert data[key] == pytest.approx(sum(part[key] for part in data["products"]))
    assert data["wall_hours"] == pytest.approx(sum(part["schedule"]["wall_hours"] for part in data["products"]))
    assert "reference machine" in data["speed"]["origin"]
