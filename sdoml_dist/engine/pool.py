"""Tasks over a pool of Ray Data actors: stopped in good order, and without a task that ends every worker.

Whatever a task is, what it makes is written by its worker; what comes back is small. Ray repeats what was under way on a worker
that died, answers that had come back before included; every answer counts once, and a task without one is done again.
"""

from __future__ import annotations

import abc
import logging
import pickle
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sdoml_dist.engine.brake import MAXIMUM_STARTS, Brake
from sdoml_dist.engine.cluster import ray
from sdoml_dist.engine.stop import StopRequest
from sdoml_dist.errors import EnvironmentFault, Stopped

logger = logging.getLogger("sdoml")

# Calls of actors in all: bounds what the driver holds where there are very many tasks.
_MOST_CALLS = 8192
# A call of an actor takes this share of what is left for each; the last calls are single tasks.
_SHARES = 8
# Workers side by side that calls are laid out for: units that are neighbours are done at the same time, for what is committed
# together then lies together.
_MOST_SIDE_BY_SIDE = 1024
# A worker keeps the answers of short tasks for so long before it hands them over together: one second, or with many workers
# so long that the driver is handed a hundred a second, and no longer than the last.
_HAND_OVER_S = (1.0, 0.01, 10.0)
_ATTEMPTS = 4
_PAUSE_S = 2.0


@dataclass(frozen=True)
class PoolSize:
    """How many actors, and what each takes.

    Attributes
    ----------
    minimum, maximum : int
        Actors that are kept, and actors at most.
    cpus : float
        CPUs of an actor.
    memory_bytes : int
        Memory of an actor.
    gpus : float
        GPUs of an actor.
    """

    minimum: int
    maximum: int
    cpus: float
    memory_bytes: int
    gpus: float = 0.0


@dataclass(frozen=True)
class _Answer:
    """What a worker says about a task: a result, the text of a fault, or that it did not start."""

    kind: Literal["done", "fault", "not started"]
    value: Any = None


_Numbered = tuple[int, _Answer]


class PoolActor(abc.ABC):
    """Runs tasks for Ray Data, one after the other; a subclass says what they are.

    Parameters
    ----------
    brake : ray.actor.ActorHandle
        The run's brake.
    """

    def __init__(self, brake: Any) -> None:
        # The driver shows what matters; a worker's log is its own file.
        logging.getLogger("sdoml_dist").setLevel(logging.WARNING)
        self.brake = brake

    @abc.abstractmethod
    def name(self, task: Any) -> str:
        """Return the identity of a task."""

    @abc.abstractmethod
    def work(self, task: Any) -> Any:
        """Do a task and return what the driver needs of it."""

    def lost(self, task: Any, why: str) -> Any:
        """Return what stands for a task that ended every worker that tried it; by default that is a fault.

        Raises
        ------
        RuntimeError
            With the reason.
        """
        raise RuntimeError(why)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Map numbered tasks to numbered answers (both pickled); answers of short tasks come several at once."""
        tasks: list[tuple[int, Any]] = [pickle.loads(data) for data in batch["task"]]  # noqa: S301 - ours
        first, last = tasks[0][0], tasks[-1][0]
        # What Ray repeats has to come in the same pieces, for the driver may be waiting for one of them.
        before, hand_over_s = ray.get(self.brake.call.remote(first)) if len(tasks) > 1 else ([last], 0.0)
        cuts, repeated = set(before), max(before, default=-1)
        ready: list[_Numbered] = []
        since = time.monotonic()
        for number, task in tasks:
            answer = self._run(number, task)
            if answer is not None:
                ready.append((number, answer))
            if number > repeated and (number == last or time.monotonic() - since >= hand_over_s):
                ray.get(self.brake.cut.remote(first, number))
                cuts.add(number)
            if number in cuts:
                yield {"answers": [pickle.dumps(ready)]}
                ready, since = [], time.monotonic()

    def _run(self, number: int, task: Any) -> _Answer | None:
        """Do a task; None if the driver has its answer already."""
        name = self.name(task)
        permission = ray.get(self.brake.begin.remote(name, number))
        if permission == "known":
            return None
        if permission == "stop":
            return _Answer("not started")
        try:
            if permission == "poison":
                why = f"{name}: workers died {MAXIMUM_STARTS} times on this unit (out of memory?)"
                answer = _Answer("done", self.lost(task, why))
            else:
                answer = _Answer("done", self._attempt(task))
        except Exception as error:  # noqa: BLE001 - reported to the driver
            answer = _Answer("fault", f"{name}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")
        # Nobody waits for this; it arrives before the next question of this worker.
        self.brake.end.remote(name)
        return answer

    def _attempt(self, task: Any) -> Any:
        """Do a task; storage that answers badly is given some time."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return self.work(task)
            except Exception as error:
                if "space" in str(error).lower():
                    raise
                time.sleep(_PAUSE_S * attempt)
        return self.work(task)


def pooled(
    actor: type[PoolActor], arguments: tuple[Any, ...], tasks: Sequence[Any], size: PoolSize, drain_s: float,
    safe: str = "Everything finished is committed.",
) -> Generator[Any, None, None]:  # fmt: skip
    """Run tasks and yield what each made, in any order; None where there is nothing, so that the reader sees time pass.

    Parameters
    ----------
    actor : type
        The pool's actor.
    arguments : tuple
        Arguments of its constructor before the brake.
    tasks : sequence
        What to do.
    size : PoolSize
        The pool.
    drain_s : float
        How long a stopping run waits for tasks under way.
    safe : str
        What to tell of the work done so far when it stops early.

    Raises
    ------
    EnvironmentFault
        After the last result, if a task could not be done.
    Stopped
        After the last result, if a signal came.
    """
    if not tasks:
        return
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    least, each, most = _HAND_OVER_S
    hand_over_s = min(max(least, each * min(size.maximum, len(tasks))), most)
    brake = ray.remote(num_cpus=0)(Brake).options(scheduling_strategy=here).remote(hand_over_s)
    stop = StopRequest(brake, drain_s)
    faults: list[str] = []
    answered, ended = bytearray(len(tasks)), 0
    with stop.listening():
        while not all(answered) and not stop.requested:
            left = [number for number, known in enumerate(answered) if not known]
            if ended:
                brake.again.remote()
                logger.info("%d units were lost with their workers; they are done again", len(left))
            for answers in _answers(_dataset(actor, (*arguments, brake), [(n, tasks[n]) for n in left], size)):
                brake.received.remote([number for number, answer in answers if answer.kind == "done"])
                for number, answer in answers:
                    if answered[number]:
                        continue
                    answered[number] = True
                    ended += answer.kind != "not started"
                    if answer.kind == "fault":
                        faults.append(answer.value)
                        stop.request("a unit that could not be done")
                    yield answer.value if answer.kind == "done" else None
                if stop.ended is not None and ended >= stop.ended:
                    break
            if not stop.requested and not any(answered[number] for number in left):
                faults.append("no worker answered")
                break
    if faults:
        raise EnvironmentFault(
            f"{len(faults)} units could not be processed or written; the first: {faults[0]}",
            safe, "Cure the cause (room, rights, memory); the same command goes on.",
        )  # fmt: skip
    if stop.requested:
        raise Stopped(
            f"Stopped by {stop.reason} after {ended} of {len(tasks)} units.", safe, "The same command goes on."
        )


def _dataset(
    actor: type[PoolActor], arguments: tuple[Any, ...], tasks: Sequence[tuple[int, Any]], size: PoolSize
) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # Every answer leaves its task at once instead of waiting for a block to fill.
    context.target_max_block_size = 1
    most = min(size.maximum, len(tasks))
    # One block of the dataset is one call.
    blocks = [
        pa.table({"task": [pickle.dumps(tasks[index]) for index in call]}) for call in _calls(len(tasks), most)
    ]  # fmt: skip
    return ray.data.from_arrow(blocks).map_batches(
        actor,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(
            min_size=min(size.minimum, most), max_size=most, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=size.cpus,
        num_gpus=size.gpus,
        memory=size.memory_bytes,
        fn_constructor_args=arguments,
    )


def _calls(number: int, workers: int) -> list[range]:
    """Share out tasks among calls of actors: ever smaller ones, so that all workers end at about the same time.

    Parameters
    ----------
    number, workers : int
        Tasks, and workers at most.

    Returns
    -------
    list of range
        Numbers of the tasks of each call, in the order in which calls are made.
    """
    calls: list[range] = []
    workers, first = min(workers, _MOST_SIDE_BY_SIDE), 0
    while first < number:
        left = number - first
        size = max(left // (_SHARES * workers), -(-left // _MOST_CALLS), 1)
        stop = min(first + size * workers, number)
        calls += [range(start, stop, workers) for start in range(first, min(first + workers, stop))]
        first = stop
    return calls


def _answers(pool: ray.data.Dataset) -> Iterator[list[_Numbered]]:
    """Run a pool and yield its answers as they come back, without threads that outlive it.

    ``Dataset.iter_batches`` reads ahead in threads of its own. They go on for a while after the reader has stopped, and a
    thread that asks for an object while Ray shuts down ends the whole process. Here the blocks are got in the thread of the
    reader, and leaving the loop stops the pool.
    """
    # As Dataset.iter_internal_ref_bundles, which does not give the executor away (Ray is pinned to one version).
    try:
        bundles, _, executor = pool._execute_to_iterator()
    except ray.exceptions.RayError as error:
        raise EnvironmentFault(
            f"The workers could not start: {str(error).strip().splitlines()[-1]}",
            "Nothing is lost.",
            "Every node needs the same sdoml_dist and what it imports; 'ray logs' has the whole story.",
        ) from error
    try:
        for bundle in bundles:
            # Ray keeps statistics of every block for a summary at the end that nobody reads: a kilobyte per task.
            for operator in executor._topology if executor is not None else ():
                getattr(operator, "_output_blocks_stats", []).clear()
            for entry in bundle.blocks:
                block = ray.data.block.BlockAccessor.for_block(ray.get(entry.ref)).to_arrow()
                for value in block["answers"].to_pylist():
                    yield pickle.loads(value)  # noqa: S301 - made by our own workers
    finally:
        if executor is not None:
            executor.shutdown(force=True)
