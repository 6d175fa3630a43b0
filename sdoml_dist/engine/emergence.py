"""Build an emergence dataset: three stages over actor pools, each resumable by the same command."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.emergence_plan import STAGES, EmergencePlan, Stage, TrackUnit
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.engine.cluster import Cluster, connect, preflight
from sdoml_dist.engine.collect import collect
from sdoml_dist.engine.pool import PoolActor, PoolSize, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.record import RunRecord
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.errors import ExitCode
from sdoml_dist.pipelines.emergence import EmergenceWorker
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.emergence import EmergenceStore, StageReceipt, Task
from sdoml_dist.store.lease import Lease

logger = logging.getLogger("sdoml")

_SMALLER = (
    "lower layout.block_frames, layout.segment_windows or layout.tile_pixels (in a new dataset), or set "
    "resources.memory_per_actor"
)
_TITLES: dict[Stage, str] = {"track": "tracking", "power": "acoustic power", "timelines": "timelines"}


@dataclass
class StageSummary:
    """What a run did in one stage.

    Attributes
    ----------
    units : int
        Units done.
    outcomes : Counter
        Frames or windows by outcome.
    seconds : float
        Time of the stage.
    busy_s, read_s, write_s : float
        Time of all workers, and what of it they waited for arrays to be read and written.
    """

    units: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    busy_s: float = 0.0
    read_s: float = 0.0
    write_s: float = 0.0


@dataclass
class EmergenceSummary:
    """What a run did.

    Attributes
    ----------
    exit_code : ExitCode
        The exit code of the command.
    stages : dict of str to StageSummary
        Stages that had something to do.
    actors, commits : int
        Workers, and commits.
    peak_memory_bytes : int
        Largest memory of a worker.
    """

    exit_code: ExitCode
    stages: dict[str, StageSummary] = field(default_factory=dict)
    actors: int = 0
    commits: int = 0
    peak_memory_bytes: int = 0
    run_id: str = ""


class EmergenceActor(PoolActor):
    """Runs units of an emergence dataset."""

    def __init__(self, recipe: dict[str, Any], fork_bytes: bytes, brake: Any) -> None:
        super().__init__(brake)
        self.worker = EmergenceWorker(EmergencePlan(EmergenceRecipe.model_validate(recipe)), fork_bytes)

    def name(self, task: Task) -> str:
        """Return the unit's identity; of one block there may be several, for different regions."""
        unit = task[0]
        return f"{unit.unit_id}/{unit.regions}" if isinstance(unit, TrackUnit) else unit.unit_id

    def work(self, task: Task) -> StageReceipt:
        """Process a unit."""
        return self.worker.process(*task)


def build_emergence(
    recipe: EmergenceRecipe, *, retry: tuple[str, ...] = (), cpus: int | None = None, wait_s: float = 0.0
) -> EmergenceSummary:
    """Build an emergence dataset, or go on where an earlier run stopped.

    Parameters
    ----------
    recipe : EmergenceRecipe
        What to build. Regions may be added to a dataset that is there.
    retry : tuple of str
        Outcomes of frames to try again: ``failed``, ``missing``, ``rejected``. Power and timelines that depend on them
        are made again.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver's lease.

    Returns
    -------
    EmergenceSummary
        With exit code 0, or 3 if frames failed.

    Raises
    ------
    SdomlError
        If the run cannot start or go on; all finished units are committed then.
    """
    plan = EmergencePlan(recipe)
    with interruptible(), Lease(recipe.store, "sdoml emergence build", wait_s) as lease:
        store = EmergenceStore(plan)
        record = RunRecord(recipe.store, plan.plan_id, "emergence build")
        summary = EmergenceSummary(ExitCode.COMPLETE, run_id=record.run_id)
        first = store.pending("track", retry)

        def told() -> dict[str, Any]:
            summary.commits = store.ledger.commits
            stages = {
                name: {
                    "units": one.units, "seconds": one.seconds, "busy_s": one.busy_s, "read_s": one.read_s,
                    "write_s": one.write_s, "outcomes": dict(one.outcomes),
                }
                for name, one in summary.stages.items()
            }  # fmt: skip
            return {"commits": summary.commits, "actors": summary.actors, "stages": stages}

        with record.running(summary, told):
            if first:
                _announce(plan)
            if first or store.pending("power") or store.pending("timelines"):
                with connect(cpus) as cluster:
                    estimate = plan.estimate()
                    record.projected_memory_bytes = estimate.memory_per_actor_bytes
                    share = store.count(first) / max(estimate.frames, 1)
                    summary.actors = preflight(
                        cluster, recipe.store, recipe.resources, estimate.memory_per_actor_bytes,
                        int(estimate.stored_bytes * min(share, 1.0)), _SMALLER,
                    )  # fmt: skip
                    for stage in STAGES:
                        work = first if stage == "track" else store.pending(stage)
                        if work:
                            _run(stage, plan, store, lease, record, work, summary, cluster)
            lease.check()
            if store.failed():
                summary.exit_code = ExitCode.FRAMES_FAILED
    return summary


def _announce(plan: EmergencePlan) -> None:
    """Let the source prepare once for each stretch of time that has regions."""
    margin = np.timedelta64(plan.recipe.tolerance, "s")
    source = make_source(plan.recipe)
    stretches = sorted(
        (plan.times("V", axes.frames)[0] - margin, plan.times("V", axes.frames)[-1] + margin)
        for axes in plan.axes.values()
    )
    joined: list[list[np.datetime64]] = []
    for start, end in stretches:
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    for start, end in joined:
        source.prepare([bundle.name for bundle in plan.recipe.contents.bundles], start, end)


def _run(
    stage: Stage, plan: EmergencePlan, store: EmergenceStore, lease: Lease, record: RunRecord, work: list[Task],
    summary: EmergenceSummary, cluster: Cluster,
) -> None:  # fmt: skip
    """Drive one stage."""
    resources, found = plan.recipe.resources, StageSummary()
    summary.stages[stage] = found
    logger.info("%s: %d units", _TITLES[stage], len(work))
    noun = "frame" if stage == "track" else "window"
    progress = Progress(store.count(work), len(work), noun=noun, stage=stage)

    def commit(receipts: list[StageReceipt]) -> None:
        lease.check()
        store.commit(receipts, f"{_TITLES[stage]}: {len(receipts)} units", {"run_id": record.run_id})
        for receipt in receipts:
            found.read_s += receipt.read_s
            found.write_s += receipt.write_s
        found.units += len(receipts)

    size = PoolSize(
        summary.actors if cluster.private else resources.minimum_actors,
        resources.maximum_actors or (summary.actors if cluster.private else len(work)),
        resources.cpus_per_actor, plan.memory_per_actor_bytes,
    )  # fmt: skip
    # What the stage before has committed is seen by forks that are made after it.
    arguments = (plan.recipe.model_dump(mode="json"), store.ledger.fork())
    try:
        collect(pooled(EmergenceActor, arguments, work, size, resources.drain_s), resources, progress, record, commit)
    finally:
        found.outcomes, found.seconds, found.busy_s = progress.outcomes, progress.elapsed_s, progress.busy_s
        summary.peak_memory_bytes = max(summary.peak_memory_bytes, progress.peak_memory_bytes)
    logger.info("%s: %s", _TITLES[stage], progress.line())
