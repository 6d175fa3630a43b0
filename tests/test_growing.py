"""A build on a cluster without workers: Ray's autoscaler starts them, up to the maximum of the pool, and ends them all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import sdoml_dist
from sdoml_dist.errors import ExitCode
from tests.conftest import small
from tests.servers.alone import run_alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

# Ray Data looks at the cluster's use over ten seconds and asks for more every ten; here in a hurry.
_HURRY = {"RAY_DATA_CLUSTER_UTIL_AVG_WINDOW_S": "2", "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "2"}


def write_recipe(folder: Path, name: str, hours: int, **resources: Any) -> str:
    data = small(str(folder / name), channels=["94A", "171A", "304A", "335A"], resources=resources)
    data["period"]["end"] = f"2011-02-15T{hours:02d}:00"
    data["source"]["simulation"]["pixels"] = 256
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def at_once(store: Path) -> int:
    """Return how many workers of a run worked at the same time."""
    lines = [line for part in store.glob("sdoml/runs/*/history-*.jsonl") for line in part.read_text().splitlines()]
    units = [json.loads(line) for line in lines]
    began = [unit["started_unix_s"] for unit in units]
    ended = [unit["started_unix_s"] + unit["seconds"] for unit in units]
    # A worker begins a unit some milliseconds after the one before.
    return max(sum(a <= now < b - 0.01 for a, b in zip(began, ended, strict=True)) for now in began)


def test_a_build_makes_a_cluster_grow_to_its_pool_and_leaves_no_worker(tmp_path: Path) -> None:
    recipes = [
        write_recipe(tmp_path, "grown", 23, minimum_actors=1, maximum_actors=2, commit_every_units=4),
        write_recipe(tmp_path, "refused", 1, memory_per_actor="900GB"),
        write_recipe(tmp_path, "held", 1, minimum_actors=2, maximum_actors=2),
    ]
    # Five workers could be started: it is the pool that stops at two.
    command = [sys.executable, "-m", "tests.servers.growing_run", str(tmp_path), "5", "2", *recipes]
    code, log = run_alone(command, tmp_path / "run.log", _HURRY, timeout=380)
    answers = [json.loads(line) for line in log.splitlines() if line.startswith('{"code"')]
    assert code == 0, log[-4000:]
    assert len(answers) == 3, log[-4000:]
    grown, refused, held = answers
    assert grown["code"] == ExitCode.STOPPED, grown
    assert held["code"] in (ExitCode.COMPLETE, ExitCode.FRAMES_FAILED), held
    for name, answer in (("grown", grown), ("held", held)):
        assert answer["before"] == 0, answer
        # While an actor moves in, Ray's autoscaler can count it both as waiting and as what fills its node: then more
        # workers come, find nothing to do, and go.
        assert answer["most"] >= 2, answer
        assert answer["gone"] is not None, f"workers were kept: {answer}"
        assert 1 <= at_once(tmp_path / name) <= 2
    counts = sdoml_dist.accounting(str(tmp_path / "held"))
    assert (counts[["ok", "missing", "rejected", "failed"]].sum(axis=1) == counts.planned).all()
    # What no type of node can hold is refused in seconds, without starting any.
    assert refused["code"] == ExitCode.ENVIRONMENT, refused
    assert "900 GB" in refused["told"], refused
    assert refused["most"] == 0, refused
