"""A Ray Data sink that writes whole shards of a dataset: what a network makes goes from an actor pool to Zarr.

The life of a group of shards::

    tasks -> map_batches(ShardActor, a pool) -> blocks of shards -> write_datasink(ZarrSink) -> one commit

1. The driver makes the template (:class:`sdoml_dist.store.made.Output`) and lists the shards that are left.
2. An actor makes a :class:`sdoml_dist.store.made.Shard` of a task: pixels of a whole shard, a status per slot, keywords.
   A row of a block is a shard; its pixels stay where Ray has put them, and writers read them there without a copy.
3. A write task computes moments and histograms, writes the shard through a fork of the driver's session, and returns the
   receipt with the fork, a few kilobytes. Nothing is visible yet.
4. ``on_write_complete`` merges the forks and commits: a group is there as a whole or not at all.

:func:`write_shards` runs all groups. The same call goes on after a stop: shards that are there are not made again. A task that
Ray repeats writes the same shard through another fork; only the one whose receipt came back counts.

A user of this module subclasses :class:`ShardActor` and calls :func:`write_shards`.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from sdoml_dist.engine.brake import MAXIMUM_STARTS, Brake
from sdoml_dist.engine.cluster import ray
from sdoml_dist.engine.pool import PoolSize
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.stop import StopRequest
from sdoml_dist.errors import EnvironmentFault, SdomlError, Stopped
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.made import Output, Shard, ShardTask, no_shards, write_shard
from sdoml_dist.store.receipt import Receipt, count_outcomes

logger = logging.getLogger("sdoml")

GROUP = 64
"""Shards of time whose products are committed together, by default."""
_DRAIN_S = 120.0
_SAFE = "All finished groups of shards are committed."
# Writing a shard is little work beside making it; two writers share what one CPU is left.
WRITER_CPUS = 0.5


@dataclass
class Written:
    """What a run of :func:`write_shards` did.

    Attributes
    ----------
    shards, frames, ok : int
        Shards and frames written, and frames with an image.
    commits : int
        Groups.
    seconds : float
        Time of the run.
    """

    shards: int = 0
    frames: int = 0
    ok: int = 0
    commits: int = 0
    seconds: float = 0.0


class ZarrSink(ray.data.Datasink[bytes]):
    """Writes blocks of shards, and commits them when all are written.

    Parameters
    ----------
    output : Output
        The dataset, on the driver; workers get a fork of its session and the recipes only.
    """

    def __init__(self, output: Output) -> None:
        self._output: Output | None = output
        self._fork_bytes = output.fork_bytes
        self._recipes = {name: recipe.model_dump(mode="json") for name, recipe in output.recipes.items()}
        self.receipts: list[tuple[str, Receipt]] = []
        """What was committed, on the driver."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_output": None}

    def write(self, blocks: Iterable[Any], ctx: Any) -> bytes:
        """Write the shards of some blocks; runs on a worker.

        Returns
        -------
        bytes
            Pickled list of products and receipts.
        """
        recipes = {name: parse_recipe(data) for name, data in self._recipes.items()}
        done = []
        for block in blocks:
            table = ray.data.block.BlockAccessor.for_block(block).to_arrow()
            if "about" in table.column_names:
                done += [
                    (shard.product, write_shard(self._fork_bytes, recipes[shard.product], shard))
                    for shard in Shard.of(table)
                ]
        return pickle.dumps(done)

    def on_write_complete(self, write_result: Any) -> None:
        """Commit what all write tasks wrote; runs on the driver."""
        assert self._output is not None
        for answer in write_result.write_returns:
            self.receipts += pickle.loads(answer)  # noqa: S301 - made by our own workers
        self._output.commit(self.receipts)


class ShardActor(abc.ABC):
    """Makes shards for Ray Data; a subclass says how.

    Parameters
    ----------
    brake : ray.actor.ActorHandle
        The run's brake.
    """

    def __init__(self, brake: Any) -> None:
        logging.getLogger("sdoml_dist").setLevel(logging.WARNING)
        self.brake = brake

    @abc.abstractmethod
    def make(self, task: ShardTask) -> Iterator[Shard]:
        """Yield a shard for every unit of a task."""

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        """Map tasks (pickled) to blocks of one shard each; to none once the run is to stop."""
        yield no_shards()
        for text in batch["task"]:
            task: ShardTask = pickle.loads(text)  # noqa: S301 - ours
            permission = ray.get(self.brake.begin.remote(task.name))
            if permission == "stop":
                continue
            if permission == "poison":
                raise EnvironmentFault(
                    f"{task.name}: workers died {MAXIMUM_STARTS} times on this shard (out of memory?)."
                )
            for shard in self.make(task):
                yield shard.block()
            ray.get(self.brake.end.remote(task.name))


def write_shards(
    output: Output, tasks: Sequence[ShardTask], actor: type[ShardActor], arguments: tuple[Any, ...], size: PoolSize,
    lease: Lease, *, group: int = GROUP, stage: str = "shards",
) -> Written:  # fmt: skip
    """Make shards by an actor pool and write them, a commit per group.

    Parameters
    ----------
    output : Output
        The dataset.
    tasks : sequence of ShardTask
        Of :meth:`Output.tasks`.
    actor : type
        Makes shards.
    arguments : tuple
        Of its constructor, before the brake.
    size : PoolSize
        The pool; `WRITER_CPUS` must be left beside it.
    lease : Lease
        The right to commit.
    group : int
        Tasks per commit.
    stage : str
        What is being done, for the metrics.

    Raises
    ------
    EnvironmentFault
        If a shard cannot be made or written. Groups before it are committed.
    SdomlError
        What ended a worker.
    Stopped
        After a signal; what was under way when it came is finished and committed.
    """
    written, began = Written(), time.monotonic()
    left = iter(tasks)
    with contextlib.closing(_progress(output, tasks, stage)) as progress:
        while some := list(islice(left, max(group, 1))):
            lease.check()
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            brake = ray.remote(num_cpus=0)(Brake).options(scheduling_strategy=here).remote()
            stop, sink = StopRequest(brake, _DRAIN_S), ZarrSink(output)
            with stop.listening(), _explained():
                _pipeline(some, actor, (*arguments, brake), size).write_datasink(
                    sink, ray_remote_args={"num_cpus": WRITER_CPUS}
                )
            written.commits += bool(sink.receipts)
            written.shards += len(sink.receipts)
            for _, receipt in sink.receipts:
                progress.add(receipt)
                written.frames += receipt.status.size
                written.ok += count_outcomes(receipt.status)["ok"]
            written.seconds = time.monotonic() - began
            logger.info("%d shards, %d frames, %.0f s", written.shards, written.frames, written.seconds)
            if stop.requested:
                raise Stopped(
                    f"Stopped by {stop.reason} after {written.shards} shards.", _SAFE, "The same command goes on."
                )
    return written


def _progress(output: Output, tasks: Sequence[ShardTask], stage: str) -> Progress:
    """Return the account of all shards that are left; what is committed is added to it."""
    width = {
        (product, bundle.name): len(bundle.channels)
        for product, recipe in output.recipes.items()
        for bundle in recipe.bundles
    }
    frames = sum(task.slots.size * width[product, unit.bundle] for task in tasks for product, unit in task.units)
    return Progress(frames, sum(len(task.units) for task in tasks), stage=stage)


def _pipeline(
    tasks: Sequence[ShardTask], actor: type[ShardActor], arguments: tuple[Any, ...], size: PoolSize
) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # Every shard leaves its task at once instead of waiting for a block to fill.
    context.target_max_block_size = 1
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    most = min(size.maximum, len(tasks))
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        actor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=min(size.minimum, most), max_size=most),
        num_cpus=size.cpus,
        num_gpus=size.gpus,
        memory=size.memory_bytes,
        fn_constructor_args=arguments,
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Bring what ended a pipeline to an error with a cure; Ray Data's own account of it would stand beside that."""
    log = logging.getLogger("ray.data")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except SdomlError:
        raise
    except (ray.exceptions.RayError, ValueError, OSError, RuntimeError) as error:
        queue: list[BaseException | None] = [error]
        seen: set[int] = set()
        while queue:
            one = queue.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, SdomlError):
                raise one from None
            queue += [one.__cause__, one.__context__, getattr(one, "cause", None)]
        raise EnvironmentFault(
            f"Shards could not be made or written: {str(error).strip().splitlines()[-1][:500]}",
            _SAFE, "Cure the cause (room, rights, memory); the same command goes on.",
        ) from error  # fmt: skip
    finally:
        log.setLevel(before)
