"""Apply a trained network to a dataset: shards over an actor pool, written by a sink, resumable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.engine.network_pool import network_pool
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.engine.zarr_sink import GROUP, ShardActor, Written, write_shards
from sdoml_dist.errors import ExitCode
from sdoml_dist.pipelines.apply import (
    ShardApplier,
    all_slots,
    application,
    input_samples,
    output_recipes,
    samples_before,
    worker_bytes,
)
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.status import has_outcome
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.made import Output, Shard, ShardTask
from sdoml_dist.training import checkpoint as checkpoints

logger = logging.getLogger("sdoml")


@dataclass
class AppliedSummary:
    """What an application did.

    Attributes
    ----------
    exit_code : ExitCode
        Of the command: 3 if frames failed.
    written : Written
        Shards and frames of this run.
    snapshot : str
        Version of the dataset that the network was applied to.
    tag : str or None
        Name that the result was given.
    """

    exit_code: ExitCode = ExitCode.COMPLETE
    written: Written = field(default_factory=Written)
    snapshot: str = ""
    tag: str | None = None


class ApplyActor(ShardActor):
    """Applies a network to shards."""

    def __init__(self, arguments: dict[str, Any], brake: Any) -> None:
        super().__init__(brake)
        recipes = {name: parse_recipe(data) for name, data in arguments["recipes"].items()}
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.applier = ShardApplier(
            **arguments | {"store": Store(**arguments["store"]), "recipes": recipes, "device": device}
        )

    def make(self, task: ShardTask) -> Iterator[Shard]:
        """Yield a shard for every unit of a task."""
        return self.applier.make(task)


def apply(
    checkpoint: str, store: Store, output: Store, *, version: str | None = None, tag: str | None = None,
    retry: tuple[str, ...] = (), shard_slots: int | None = None, group: int = GROUP, batch: int = 1,
    gpus: bool | None = None, cpus: int | None = None, wait_s: float = 0.0,
) -> AppliedSummary:  # fmt: skip
    """Apply a network to all images of a dataset, or go on where an earlier run stopped.

    Parameters
    ----------
    checkpoint : str
        Folder of the checkpoint, or of a run, whose best by validation is taken; every node can read it.
    store : Store
        The dataset.
    output : Store
        Where the result is made, a dataset of its own.
    version : str, optional
        Tag or snapshot; by default the newest, and for an output that is there the one that it was begun with.
    tag : str, optional
        Name of the finished version of the output.
    retry : tuple of str
        Outcomes to do again: ``failed``, ``missing``, ``rejected``.
    shard_slots : int, optional
        Slots per shard, which are written at once.
    group : int
        Shards of time per commit.
    batch : int
        Images that go through the network at once.
    gpus : bool, optional
        Whether an actor takes a GPU; by default if the cluster has any.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver's lease.

    Raises
    ------
    UsageError
        If the network cannot be applied to this dataset.
    StoreError
        If `output` was made by other weights or of another version, or holds something else.
    EnvironmentFault
        If shards cannot be made or written, or nodes do not share the output's folder.
    Stopped
        After a signal; the same command goes on.
    """
    folder = str(checkpoints.chosen(checkpoint).absolute())
    summary = AppliedSummary(tag=tag)
    with interruptible("All finished groups of shards are committed."), Lease(output, "sdoml apply", wait_s) as lease:
        applied = application(folder)
        samples, opened = input_samples(applied, store, version or begun_with(output))
        # What is missing is said before anything is written.
        samples, earlier = samples_before(applied, samples)
        summary.snapshot = samples.snapshot
        experiment = str(checkpoints.about(folder)["experiment"])
        there = Output(output_recipes(applied, experiment, samples, opened, output, shard_slots))
        tasks = there.tasks(all_slots(next(iter(there.recipes.values()))), retry)
        if tasks:
            memory = worker_bytes(applied, samples, earlier, batch)
            with connect(cpus) as cluster:
                size, _ = network_pool(cluster, "A worker", memory, len(tasks), gpus, output=output, writers=True)
                arguments = {
                    "folder": folder, "store": store.model_dump(), "version": samples.snapshot, "batch": batch,
                    "recipes": {name: recipe.model_dump(mode="json") for name, recipe in there.recipes.items()},
                }  # fmt: skip
                summary.written = write_shards(there, tasks, ApplyActor, (arguments,), size, lease, group=group, stage="apply")
        lease.check()
        there.finish()
        if tag is not None:
            there.ledger.tag(tag)
        if _failed(there):
            summary.exit_code = ExitCode.FRAMES_FAILED
    return summary


def begun_with(output: Store) -> str | None:
    """Return the version that an output was begun with, None where there is no output yet."""
    from sdoml_dist.recipe_sources import NetworkConfig
    from sdoml_dist.store.reader import open_products
    from sdoml_dist.store.repository import exists

    if not exists(output):
        return None
    sources = [one.recipe.source for one in open_products(output)]
    return next((source.snapshot for source in sources if isinstance(source, NetworkConfig)), None)


def _failed(there: Output) -> int:
    """Count the frames of the output that failed."""
    return sum(
        int(has_outcome(dataset.status(year)[start:stop], "failed").sum())
        for dataset in there.datasets.values()
        for year, (start, stop) in Plan(dataset.plan.recipe).years().items()
    )
