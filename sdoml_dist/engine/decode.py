"""Decode a latent catalog into a dataset: shards over an actor pool, written by a sink, resumable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.engine.network_pool import network_pool
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.engine.zarr_sink import GROUP, ShardActor, Written, write_shards
from sdoml_dist.pipelines.decode import ShardDecoder, catalog_slots, decoded_recipes
from sdoml_dist.pipelines.encode import Trained
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.store.catalog import open_catalog
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.made import Output, Shard, ShardTask
from sdoml_dist.training.checkpoint import chosen

logger = logging.getLogger("sdoml")

# PyTorch with a network of 34 million weights, and a shard of twelve channels.
_WORKER_BYTES = 1_500_000_000


class DecodeActor(ShardActor):
    """Decodes shards."""

    def __init__(self, arguments: dict[str, Any], brake: Any) -> None:
        super().__init__(brake)
        recipes = {name: parse_recipe(data) for name, data in arguments["recipes"].items()}
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.decoder = ShardDecoder(arguments["folder"], Store(**arguments["catalog"]), recipes, device)

    def make(self, task: ShardTask) -> Iterator[Shard]:
        """Yield a shard for every unit of a task."""
        return self.decoder.make(task)


def decode(
    catalog: Store, output: Store, checkpoint: str, *, dataset: Store | None = None, shard_slots: int | None = None,
    group: int = GROUP, gpus: bool | None = None, cpus: int | None = None, wait_s: float = 0.0,
) -> Written:  # fmt: skip
    """Make images of latents again, or go on where an earlier run stopped.

    Parameters
    ----------
    catalog : Store
        The latents.
    output : Store
        Where the dataset is made.
    checkpoint : str
        Folder of the checkpoint that made them, or of a run, whose best by validation is taken; every node can read it.
    dataset : Store, optional
        The dataset that was encoded, if it was moved.
    shard_slots : int, optional
        Slots per shard, which are written at once.
    group : int
        Shards of time per commit.
    gpus : bool, optional
        Whether an actor takes a GPU; by default if the cluster has any.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver's lease.

    Raises
    ------
    StoreError
        If the latents are of other weights, or `output` holds something else.
    EnvironmentFault
        If shards cannot be written, or nodes do not share the output's folder.
    Stopped
        After a signal; the same command goes on.
    """
    folder = str(chosen(checkpoint).absolute())
    with interruptible("All finished groups of shards are committed."), Lease(output, "sdoml decode", wait_s) as lease:
        opened = open_catalog(catalog)
        made = decoded_recipes(Trained(folder), opened, output, dataset=dataset, shard_slots=shard_slots)
        there = Output(made)
        tasks = there.tasks(catalog_slots(opened))
        written = Written()
        if tasks:
            with connect(cpus) as cluster:
                size, _ = network_pool(cluster, "A decoder", _WORKER_BYTES, len(tasks), gpus, output=output, writers=True)
                arguments = {
                    "folder": folder, "catalog": catalog.model_dump(),
                    "recipes": {name: recipe.model_dump(mode="json") for name, recipe in there.recipes.items()},
                }  # fmt: skip
                written = write_shards(there, tasks, DecodeActor, (arguments,), size, lease, group=group, stage="decode")
        lease.check()
        there.finish()
    return written
