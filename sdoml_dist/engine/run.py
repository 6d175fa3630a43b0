"""Run the units of a plan over an actor pool and commit their receipts."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.engine.actor import UnitActor
from sdoml_dist.engine.cluster import connect, preflight
from sdoml_dist.engine.collect import collect
from sdoml_dist.engine.pool import PoolSize, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.record import RunRecord
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.engine.turns import Turns
from sdoml_dist.errors import ExitCode
from sdoml_dist.parts import Part
from sdoml_dist.pipelines.changes import changed
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.status import has_outcome
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.finalise import finalise
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.repository import BRANCH

logger = logging.getLogger("sdoml")

_SMALLER = "lower chunking.shard_slots (in a new dataset), or set resources.memory_per_actor"


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


def build(
    recipe: Recipe, *, verb: str = "build", extend: bool = False, retry: tuple[str, ...] = (), refresh: bool = False,
    cpus: int | None = None, wait_s: float = 0.0, branch: str = BRANCH, part: Part | None = None,
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
    part : Part, optional
        Do just these units of the plan; others may do the other parts at the same time.

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
    with interruptible(), Turns(recipe.store, f"sdoml {verb}", wait_s, part) as turns:
        with turns.turn():
            dataset = Dataset(plan, calibration, extend, branch)
        mine = _units_of(plan, part) if part is not None else None
        work = [(unit, slots) for unit, slots in dataset.pending(retry) if mine is None or unit in mine]
        source = make_source(recipe)
        if work or refresh:
            source.prepare([bundle.name for bundle in recipe.bundles], *_span(recipe))
        if refresh:
            work = _joined(work, changed(dataset, source, np.datetime64(time.time_ns(), "ns")))
        frames = _count(work, recipe)
        total = plan.slots * len(recipe.channels)
        if mine is not None:
            total = _count(((unit, np.arange(unit.start, unit.stop)) for unit in mine), recipe)
        label = "" if part is None else f"-part{part.number}"
        record = RunRecord(recipe.store, plan.plan_id, verb, label)
        summary = Summary(ExitCode.COMPLETE, resumed_frames=total - frames, run_id=record.run_id)
        if summary.resumed_frames:
            logger.info("resumed: %d frames done, %d left", summary.resumed_frames, frames)

        def told() -> dict[str, Any]:
            summary.commits = dataset.ledger.commits
            names = ("seconds", "busy_s", "actors", "commits")
            return {name: getattr(summary, name) for name in names} | {"outcomes": dict(summary.outcomes)}

        with record.running(summary, told):
            if work:
                with connect(cpus) as cluster:
                    estimate = plan.estimate()
                    record.projected_memory_bytes = estimate.memory_per_actor_bytes
                    summary.actors = preflight(
                        cluster, recipe.store, recipe.resources, estimate.memory_per_actor_bytes,
                        int(estimate.stored_bytes * frames / max(estimate.frames, 1)), _SMALLER,
                    )  # fmt: skip
                    _run(plan, dataset, turns, record, work, summary, cluster.private)
            with turns.turn(dataset.ledger):
                # Of several parts the one that ends last sees nothing pending any more.
                if part is None or not dataset.pending():
                    finalise(dataset)
            if _any_failed(dataset, plan, mine):
                summary.exit_code = ExitCode.FRAMES_FAILED
    return summary


def _joined(
    work: list[tuple[Unit, np.ndarray]], more: Iterable[tuple[Unit, np.ndarray]]
) -> list[tuple[Unit, np.ndarray]]:
    """Join two lists of work in the order of the plan."""
    slots: dict[Unit, np.ndarray] = dict(work)
    for unit, extra in more:
        slots[unit] = np.union1d(slots[unit], extra) if unit in slots else extra
    return sorted(slots.items(), key=lambda item: item[0])


def _count(work: Iterable[tuple[Unit, np.ndarray]], recipe: Recipe) -> int:
    """Count the frames of some work: slots times channels."""
    width = {bundle.name: len(bundle.channels) for bundle in recipe.bundles}
    return sum(slots.size * width[unit.bundle] for unit, slots in work)


def _span(recipe: Recipe) -> tuple[np.datetime64, np.datetime64]:
    reach = recipe.stack.reach_s if recipe.product == "hmi_stack" else 0
    margin = np.timedelta64(recipe.tolerance + reach, "s")
    return recipe.period.first - margin, recipe.period.last + margin


def _units_of(plan: Plan, part: Part) -> set[Unit]:
    """Return the units of a part."""
    units = list(plan.units())
    return {unit for index, unit in enumerate(units) if part.holds(index, len(units))}


def _any_failed(dataset: Dataset, plan: Plan, mine: set[Unit] | None) -> bool:
    """Whether frames failed, of some units or of all."""
    if mine is not None:
        # Nothing of it is pending any more.
        return any(unit in mine for unit, _ in dataset.pending(("failed",)))
    years = plan.years().items()
    return any(has_outcome(dataset.status(year)[start:stop], "failed").any() for year, (start, stop) in years)


def _run(
    plan: Plan, dataset: Dataset, turns: Turns, record: RunRecord, work: list[tuple[Unit, np.ndarray]],
    summary: Summary, private: bool,
) -> None:  # fmt: skip
    """Drive the pool: collect receipts and commit them."""
    resources = plan.recipe.resources
    progress = Progress(_count(work, plan.recipe), len(work))

    def commit(receipts: list[Receipt]) -> None:
        number = sum(receipt.status.size for receipt in receipts)
        with turns.turn(dataset.ledger):
            dataset.commit(receipts, f"{len(receipts)} units, {number} frames", {"run_id": record.run_id})

    most = resources.maximum_actors or (summary.actors if private else len(work))
    size = PoolSize(
        summary.actors if private else resources.minimum_actors, most, resources.cpus_per_actor,
        plan.estimate().memory_per_actor_bytes,
    )  # fmt: skip
    # Most units are done as a whole; their slots need not be written down.
    tasks = [(unit, None if slots.size == unit.stop - unit.start else slots) for unit, slots in work]
    arguments = (plan.recipe.model_dump(mode="json"), dataset.fork_bytes)
    try:
        receipts = pooled(UnitActor, arguments, tasks, size, resources.drain_s)
        collect(receipts, resources, progress, record, commit)
    finally:
        summary.outcomes, summary.seconds = progress.outcomes, progress.elapsed_s
        summary.busy_s, summary.peak_memory_bytes = progress.busy_s, progress.peak_memory_bytes
    logger.info("%s", progress.line())
