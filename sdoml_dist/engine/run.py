"""Run the units of a plan over an actor pool and commit their receipts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.engine.actor import UnitActor
from sdoml_dist.engine.cluster import connect, preflight
from sdoml_dist.engine.pool import PoolSize, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.stop import BreakOff, interruptible
from sdoml_dist.errors import ExitCode, SdomlError, Stopped
from sdoml_dist.pipelines.changes import changed
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.status import has_outcome
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.dataset import BRANCH, Dataset
from sdoml_dist.store.finalise import finalise
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.storage import write_atomic

logger = logging.getLogger("sdoml")


@dataclass
class Summary:
    """What a run did.

    Attributes
    ----------
    exit_code : ExitCode
        The exit code of the command.
    resumed_frames : int
        Frames that were done before.
    outcomes : Counter
        Frames of this run by outcome.
    """

    exit_code: ExitCode
    resumed_frames: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    busy_s: float = 0.0
    actors: int = 0
    commits: int = 0
    peak_memory_bytes: int = 0
    run_id: str = ""


class _Record:
    """The run's record next to the dataset: state, exit code, and the history of units, a part per commit."""

    def __init__(self, plan: Plan, verb: str) -> None:
        self.store = plan.recipe.store
        self.run_id = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{plan.plan_id[:8]}-{os.getpid()}"
        self.data: dict[str, Any] = {
            "run_id": self.run_id, "verb": verb, "plan_id": plan.plan_id, "host": socket.gethostname(),
            "pid": os.getpid(), "started_unix_s": time.time(), "state": "running", "exit_code": None,
        }  # fmt: skip
        self._parts = 0
        self._lines: list[str] = []

    def unit(self, receipt: Receipt) -> None:
        self._lines.append(
            json.dumps(
                {
                    "unit": receipt.unit.unit_id,
                    "frames": int(receipt.status.size),
                    "outcomes": receipt.outcomes(),
                    "started_unix_s": receipt.started,
                    "seconds": receipt.seconds,
                    "read_bytes": receipt.read_bytes,
                    "peak_memory_bytes": receipt.peak_memory_bytes,
                    "node": receipt.node,
                    "failed": receipt.details,
                }  # fmt: skip
            )
        )

    def save(self, **changes: Any) -> None:
        self.data |= changes
        if self._lines:
            name = f"runs/{self.run_id}/history-{self._parts:05d}.jsonl"
            write_atomic(self.store, name, ("\n".join(self._lines) + "\n").encode())
            self._parts, self._lines = self._parts + 1, []
        write_atomic(self.store, f"runs/{self.run_id}/run.json", json.dumps(self.data, indent=1).encode())


def build(
    recipe: Recipe, *, verb: str = "build", extend: bool = False, retry: tuple[str, ...] = (), refresh: bool = False,
    cpus: int | None = None, wait_s: float = 0.0, branch: str = BRANCH,
) -> Summary:  # fmt: skip
    """Build a dataset, or go on where an earlier run stopped.

    Parameters
    ----------
    recipe : Recipe
        What to build.
    verb : str
        Name of the command, for the records.
    extend : bool
        Whether the period of an existing dataset may grow.
    retry : tuple of str
        Outcomes to try again: ``failed``, ``missing``, ``rejected``.
    refresh : bool
        Whether to do frames again whose source has changed since.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver's lease.
    branch : str
        Which line of commits to go on with.

    Returns
    -------
    Summary
        With exit code 0, or 3 if frames of the dataset failed.

    Raises
    ------
    SdomlError
        If the run cannot start or go on; all finished units are committed then.
    """
    plan = Plan(recipe)
    calibration = calibration_identity(recipe)
    with interruptible(), Lease(recipe.store, f"sdoml {verb}", wait_s) as lease:
        dataset = Dataset(plan, calibration, extend, branch)
        work = dataset.pending(retry)
        source = make_source(recipe)
        if work or refresh:
            source.prepare([bundle.name for bundle in recipe.bundles], *_span(recipe))
        if refresh:
            work = _joined(work, changed(dataset, source, np.datetime64(time.time_ns(), "ns")))
        frames = _count(work, recipe)
        total = plan.slots * len(recipe.channels)
        record = _Record(plan, verb)
        summary = Summary(ExitCode.COMPLETE, resumed_frames=total - frames, run_id=record.run_id)
        if summary.resumed_frames:
            logger.info("resumed: %d frames done, %d left", summary.resumed_frames, frames)
        record.save()
        code = ExitCode.BUG
        try:
            if work:
                with connect(cpus) as cluster:
                    summary.actors = preflight(plan, cluster, frames)
                    _run(plan, dataset, lease, record, work, summary, cluster.private)
            lease.check()
            finalise(dataset)
            failed = _count_failed(dataset, plan)
            code = summary.exit_code = ExitCode.FRAMES_FAILED if failed else ExitCode.COMPLETE
        except SdomlError as error:
            code = error.exit_code
            raise
        except BreakOff:
            code = ExitCode.STOPPED
            raise Stopped(
                "Broken off: units under way were given up.",
                "All finished units are committed.",
                "The same command goes on.",
            ) from None
        finally:
            summary.commits = dataset.commits
            record.save(
                state="ended", exit_code=int(code), ended_unix_s=time.time(), outcomes=dict(summary.outcomes),
                seconds=summary.seconds, busy_s=summary.busy_s, actors=summary.actors, commits=summary.commits,
            )  # fmt: skip
    return summary


def _joined(
    work: list[tuple[Unit, np.ndarray]], more: Iterable[tuple[Unit, np.ndarray]]
) -> list[tuple[Unit, np.ndarray]]:
    """Join two lists of work in the order of the plan."""
    slots: dict[Unit, np.ndarray] = dict(work)
    for unit, extra in more:
        slots[unit] = np.union1d(slots[unit], extra) if unit in slots else extra
    return sorted(slots.items(), key=lambda item: item[0])


def _count(work: list[tuple[Unit, np.ndarray]], recipe: Recipe) -> int:
    """Count the frames of some work: slots times channels."""
    width = {bundle.name: len(bundle.channels) for bundle in recipe.bundles}
    return sum(slots.size * width[unit.bundle] for unit, slots in work)


def _span(recipe: Recipe) -> tuple[np.datetime64, np.datetime64]:
    margin = np.timedelta64(recipe.tolerance, "s")
    return recipe.period.first - margin, recipe.period.last + margin


def _count_failed(dataset: Dataset, plan: Plan) -> int:
    years = plan.years().items()
    return sum(int(has_outcome(dataset.status(year)[start:stop], "failed").sum()) for year, (start, stop) in years)


def _run(
    plan: Plan, dataset: Dataset, lease: Lease, record: _Record, work: list[tuple[Unit, np.ndarray]],
    summary: Summary, private: bool,
) -> None:  # fmt: skip
    """Drive the pool: collect receipts and commit them."""
    resources = plan.recipe.resources
    progress = Progress(_count(work, plan.recipe), len(work))
    waiting: list[Receipt] = []
    committed = time.monotonic()

    def commit() -> None:
        nonlocal committed
        if waiting:
            lease.check()
            number = sum(receipt.status.size for receipt in waiting)
            dataset.commit(waiting, f"{len(waiting)} units, {number} frames", {"run_id": record.run_id})
            waiting.clear()
            record.save()
        committed = time.monotonic()

    most = resources.maximum_actors or (summary.actors if private else len(work))
    size = PoolSize(
        summary.actors if private else resources.minimum_actors, most, resources.cpus_per_actor,
        plan.estimate().memory_per_actor_bytes,
    )  # fmt: skip
    # Most units are done as a whole; their slots need not be written down.
    tasks = [(unit, None if slots.size == unit.stop - unit.start else slots) for unit, slots in work]
    arguments = (plan.recipe.model_dump(mode="json"), dataset.fork_bytes)
    try:
        with contextlib.closing(pooled(UnitActor, arguments, tasks, size, resources.drain_s)) as receipts:
            for receipt in receipts:
                if receipt is not None:
                    waiting.append(receipt)
                    progress.add(receipt)
                    record.unit(receipt)
                if (
                    len(waiting) >= resources.commit_every_units
                    or time.monotonic() - committed >= resources.commit_every_s
                ):
                    commit()
    finally:
        commit()
        progress.close()
        summary.outcomes, summary.seconds = progress.outcomes, progress.elapsed_s
        summary.busy_s, summary.peak_memory_bytes = progress.busy_s, progress.peak_memory_bytes
    logger.info("%s", progress.line())
