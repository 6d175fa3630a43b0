"""What the engine costs per unit where there are very many: 100,000 units that do no work, into a real repository.

python benchmarks/scale.py [--units 100000] [--cpus 2]        (two CPUs: an hour; six minutes with 10,000)

Everything is as in a build (Ray Data's pool, brake, receipts, merges and commits, records of the run, lease) but the work
itself: a worker returns a receipt with the columns of a whole shard, and its fork refers to a shard and headers that
are nowhere, so that the repository's manifests grow as they would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import psutil
from icechunk import ForkSession

from sdoml_dist.engine import run
from sdoml_dist.engine.actor import UnitActor
from sdoml_dist.engine.pool import PoolActor
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.statistics import MOMENTS
from sdoml_dist.store.template import group_path

_NOWHERE = "s3://nowhere/shard"


class IdlePreprocessor:
    """Stands in for the preprocessor of a worker: receipts of real size, no pixels."""

    def __init__(self, recipe: Recipe, fork_bytes: bytes) -> None:
        self.recipe, self.fork_bytes = recipe, fork_bytes
        self.random = np.random.default_rng(0)
        self._columns: dict[tuple[str, tuple[int, int]], np.ndarray] = {}

    def process(self, unit: Unit, slots: np.ndarray) -> Receipt:
        """Return the receipt of a unit that nothing was done for."""
        began = time.time()
        channels = self.recipe.bundle(unit.bundle).channels
        shape = (slots.size, len(channels))
        fork: ForkSession = pickle.loads(self.fork_bytes)
        place = f"{self.recipe.product}/{group_path(unit.year)}"
        for key in (*(f"{name}/c/{unit.shard}/0/0" for name in channels), f"headers/{unit.bundle}/c/{unit.shard}"):
            fork.store.set_virtual_ref(f"{place}/{key}", _NOWHERE, offset=0, length=1, validate_container=False)
        return Receipt(
            unit=unit, slots=slots, channels=channels, status=np.full(shape, int(FrameStatus.OK), np.uint8),
            keywords={name: self._column(name, shape, spec.dtype) for name, spec in self.recipe.contents.keywords.items()},
            moments={name: self._column(name, shape, dtype) for name, (dtype, _) in MOMENTS.items()},
            fork=pickle.dumps(fork), started=began, seconds=time.time() - began, node="here",
        )  # fmt: skip

    def _column(self, name: str, shape: tuple[int, int], dtype: str) -> np.ndarray:
        """Return values that do not compress to nothing, the same for every unit."""
        if (name, shape) not in self._columns:
            numbers = np.dtype(dtype).kind in "fiu"
            values = self.random.integers(0, 100, shape).astype(dtype) if numbers else np.zeros(shape, dtype)
            self._columns[name, shape] = values
        return self._columns[name, shape]


class IdleActor(UnitActor):
    """The engine's actor with an idle preprocessor."""

    def __init__(self, recipe: dict[str, Any], fork_bytes: bytes, brake: Any) -> None:
        PoolActor.__init__(self, brake)
        self.preprocessor: Any = IdlePreprocessor(parse_recipe(recipe), fork_bytes)


@dataclass
class Log:
    """What was seen of a run.

    Attributes
    ----------
    units, per_commit : list of int
        Units committed so far, and with each commit.
    at, commit_s : list of float
        When each commit ended, of the clock of `time.monotonic`, and its seconds.
    memory : list of int
        Resident memory of the driver after each commit, bytes, without what it shares with Ray's object store.
    began : float
        When the run looked for work.
    start_memory : int
        The driver's memory then.
    """

    units: list[int] = field(default_factory=list)
    per_commit: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    commit_s: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    began: float = 0.0
    start_memory: int = 0


def driver_memory() -> int:
    """Return the private resident memory of this process, bytes."""
    info = psutil.Process().memory_info()
    return int(info.rss - info.shared)


@contextlib.contextmanager
def idle_engine() -> Iterator[Log]:
    """Let builds in this block do no work, and watch them."""
    log = Log()

    class Watched(Dataset):
        def pending(self, *arguments: Any) -> list[tuple[Unit, np.ndarray]]:
            log.start_memory, log.began = driver_memory(), time.monotonic()
            return super().pending(*arguments)

        def commit(self, receipts: list[Receipt], message: str, metadata: dict[str, Any]) -> None:
            began, number = time.monotonic(), len(receipts)
            super().commit(receipts, message, metadata)
            log.at.append(time.monotonic())
            log.commit_s.append(log.at[-1] - began)
            log.units.append((log.units[-1] if log.units else 0) + number)
            log.per_commit.append(number)
            log.memory.append(driver_memory())

    with (
        mock.patch.object(run, "UnitActor", IdleActor),
        mock.patch.object(run, "Dataset", Watched),
        mock.patch.object(run, "finalise"),
    ):
        yield log


def scale_recipe(units: int, store: str, commit_every: int = 256, shard_slots: int = 240) -> Recipe:
    """Return the full mission's AIA recipe for about so many units, its end moved as needed."""
    bundles = 9
    shards = -(-units // bundles)
    end = np.datetime64("2011-01-01T00:00") + shards * shard_slots * np.timedelta64(6, "m")
    return parse_recipe(
        {
            "name": "scale",
            "period": {"start": "2011-01-01", "end": str(end)},
            "cadence": "6min",
            "tolerance": "1min",
            "source": {"kind": "simulator"},
            "store": {"url": store},
            "chunking": {"shard_slots": shard_slots},
            "resources": {"commit_every_units": commit_every, "commit_every_s": 60, "memory_per_actor": "500MB"},
        }
    )


def drive(units: int, cpus: int, store: str, commit_every: int = 256) -> tuple[run.Summary, Log, Recipe]:
    """Build with idle workers and return what happened."""
    recipe = scale_recipe(units, store, commit_every)
    # No frame is stored: the room for them is not needed either.
    with (
        idle_engine() as log,
        mock.patch("sdoml_dist.engine.cluster._storage_problems", return_value=[]),
    ):
        summary = run.build(recipe, cpus=cpus)
    return summary, log, recipe


def report(summary: run.Summary, log: Log, recipe: Recipe) -> dict[str, Any]:
    """Return the figures of a run as plain data."""
    units = Plan(recipe).estimate().units
    # Without the start of Ray and of the actors, where there are enough commits to tell.
    first = 0 if len(log.at) > 2 else None
    took = log.at[-1] - (log.began if first is None else log.at[0])
    counted = log.units[-1] - (0 if first is None else log.units[0])
    marks = {
        f"{share:.0%}": round(log.memory[int(np.searchsorted(log.units, share * units))] / 2**20)
        for share in (0.1, 0.5, 1.0)
    }
    commit = np.array(log.commit_s)
    return {
        "units": units,
        "units_done": log.units[-1],
        "frames": summary.outcomes.total(),
        "seconds": round(log.at[-1] - log.began, 1),
        "units_per_s": round(counted / took, 1),
        "ms_per_unit": round(took / counted * 1e3, 2),
        "commit_ms_per_unit": round(commit.sum() / units * 1e3, 2),
        "driver_MiB_before": round(log.start_memory / 2**20),
        "driver_MiB_at": marks,
        "commits": len(commit),
        "commit_s_first_median_last_max": [round(float(v), 2) for v in (commit[0], np.median(commit), commit[-1], commit.max())],
    }  # fmt: skip


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--units", type=int, default=100_000, help="units of work")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of the private Ray")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(*drive(options.units, options.cpus, f"{folder}/dataset")), indent=1))


if __name__ == "__main__":
    sys.exit(main())
