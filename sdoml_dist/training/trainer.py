"""Training on a Ray cluster from the driver's side: preflight, workers, stopping, and going on after whatever ended a run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdoml_dist.atomic import write_atomic
from sdoml_dist.engine.cluster import Cluster, connect, ray
from sdoml_dist.engine.stop import StopHandler, interruptible
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError, StoreError, UsageError
from sdoml_dist.recipe_base import Store, canonical_json, difference
from sdoml_dist.store.lease import Lease
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.control import Control, unpickled
from sdoml_dist.training.experiment import Experiment
from sdoml_dist.training.log import Follower, read_log
from sdoml_dist.training.preflight import preflight

logger = logging.getLogger("sdoml")

IDENTITY = "training.json"
_POLL_S = 0.2
_ANSWER_S = 10.0
# What may differ between runs that go on with one training.
_FREE = ("settings.config.workers.", "settings.config.watching.", "settings.config.output")
_FREE_ENDS = ("training.steps", "data.threads")
_SAFE = "The newest checkpoint is kept."


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes
    ----------
    exit_code : ExitCode
        Of the command.
    step : int
        Steps that are done.
    checkpoint, best : str
        Folders of the newest checkpoint, and of the best by validation; empty if there is none.
    metrics : dict
        Of the last line of the log.
    before : bool
        Whether the training was finished before.
    """

    exit_code: ExitCode
    step: int
    checkpoint: str
    best: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    before: bool = False


def train(
    make: Callable[[dict[str, Any]], Experiment], settings: dict[str, Any] | Callable[[Path], dict[str, Any]],
    output: str | Path, optimisation: Optimisation, watching: Watching, workers: Workers, *, name: str = "training",
    cpus: int | None = None, identity: dict[str, Any] | None = None, wait_s: float = 0.0,
) -> Outcome:  # fmt: skip
    """Train an experiment, or go on where an earlier run stopped: the same call does both.

    Parameters
    ----------
    make : callable
        Makes the experiment from its settings; importable on every worker.
    settings : dict or callable
        What the experiment needs, as plain data; or what returns it, given the run's folder.
    output : path
        Folder that every node can reach: checkpoints, log, plots.
    optimisation : Optimisation
        Steps, batches, learning rate.
    watching : Watching
        Validation, checkpoints, early stop.
    workers : Workers
        Where to run.
    name : str
        Folder of the run below `output`.
    cpus : int, optional
        CPUs of a private Ray.
    identity : dict, optional
        What makes this training another than others; by default `settings`.
    wait_s : float
        How long to wait for another driver's lease.

    Raises
    ------
    StoreError
        If the folder holds another training.
    EnvironmentFault
        If workers are lost more often than allowed, the cluster is too small, or another driver trains here.
    Stopped
        If it was broken off.
    SdomlError
        What ended the training on a worker.
    """
    if "://" in str(output):
        raise UsageError(
            f"Checkpoints cannot be written to {output}.",
            "Runs are kept in a folder that all nodes share.",
            "Set output to a shared folder; the dataset itself may be in an object store.",
        )
    folder = Path(output).absolute() / name
    if workers.number > optimisation.micro_batches:
        raise UsageError(
            f"{optimisation.micro_batches} micro-batches per update are too few for {workers.number} workers.",
            "Each worker computes at least one.",
            "Lower workers.number or training.micro_batch.",
        )
    with interruptible(_SAFE), Lease(Store(url=str(folder)), "sdoml train", wait_s):
        known = settings if isinstance(settings, dict) else None
        claim = {"settings": known if identity is None else identity, "training": optimisation.model_dump(mode="json")}
        compare(folder, claim)
        done = _outcome(folder, optimisation, watching)
        if done is not None and done.exit_code is ExitCode.COMPLETE:
            return Outcome(done.exit_code, done.step, done.checkpoint, done.best, done.metrics, before=True)
        given = settings if isinstance(settings, dict) else settings(folder)
        write_atomic(folder / IDENTITY, json.dumps(claim, indent=1).encode())
        if done is not None:
            logger.info("going on at step %d of %d", done.step, optimisation.steps)
        with _environment(), connect(cpus, gpus=0 if workers.device == "cpu" else None) as cluster:
            use_gpu = preflight(cluster, folder, workers)
            stopped = _fit(make, given, folder, optimisation, watching, workers, use_gpu, cluster)
    done = _outcome(folder, optimisation, watching)
    if done is None or (done.exit_code is not ExitCode.COMPLETE and not stopped):
        raise EnvironmentFault(
            f"Training ended at step {done.step if done else 0} of {optimisation.steps}.", _SAFE, "The same command goes on."
        )
    return done


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray and the workers of a private Ray take from the environment, and take it back."""
    # By default a group that needs more than a minute to start, as on a busy machine, is given up and started again.
    wanted = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}
    if not os.environ.get("RAY_ADDRESS"):
        # Gradients stay on loopback, as all of a private Ray does.
        wanted |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _outcome(folder: Path, optimisation: Optimisation, watching: Watching) -> Outcome | None:
    """Return how far a run has come by its newest checkpoint; None if there is none."""
    from sdoml_dist.training import checkpoint as checkpoints

    there = checkpoints.found(folder)
    if not there:
        return None
    about = checkpoints.about(there[-1])
    patient = watching.patience is None or int(about["stale"]) < watching.patience
    finished = int(about["step"]) >= optimisation.steps or not patient
    lines = [line for line in read_log(folder) if line["step"] <= about["step"]]
    return Outcome(
        ExitCode.COMPLETE if finished else ExitCode.STOPPED, int(about["step"]), str(there[-1]),
        str(checkpoints.best(folder) or ""), lines[-1] if lines else {},
    )  # fmt: skip


def compare(folder: Path, claim: dict[str, Any]) -> None:
    """Refuse to go on with another training than the one that a folder holds.

    Raises
    ------
    StoreError
        With the differences.
    """
    path = folder / IDENTITY
    if not path.is_file():
        return
    lines = difference(json.loads(path.read_text(encoding="utf-8")), json.loads(canonical_json(claim)))
    names = [line.strip().partition(":")[0] for line in lines]
    # More steps are a longer training, not another one.
    lines = [
        line for line, name in zip(lines, names, strict=True) if not name.startswith(_FREE) and not name.endswith(_FREE_ENDS)
    ]
    if lines:
        raise StoreError(
            f"{folder} holds another training:\n" + "\n".join(lines),
            "Going on would mix two networks.",
            "Undo the change, or give this training a name or an output of its own.",
        )


def _fit(
    make: Callable[[dict[str, Any]], Experiment], settings: dict[str, Any], folder: Path, optimisation: Optimisation,
    watching: Watching, workers: Workers, use_gpu: bool, cluster: Cluster,
) -> bool:  # fmt: skip
    """Run the group of workers to its end; return whether it was asked to stop."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from sdoml_dist.training.worker import work

    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    control = ray.remote(Control).options(num_cpus=0, scheduling_strategy=here).remote()
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "make": make, "settings": settings, "optimisation": optimisation.model_dump(mode="json"),
            "watching": watching.model_dump(mode="json"), "folder": str(folder), "use_gpu": use_gpu, "control": control,
        },
        scaling_config=ScalingConfig(
            num_workers=workers.number, use_gpu=use_gpu, resources_per_worker={"CPU": workers.cpus},
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=workers.maximum_failures),
        ),
    )  # fmt: skip
    ended: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - raised again below
            ended.append(error)

    # Ray's own handling of signals would end the run without a checkpoint; it installs none outside the main thread.
    thread = threading.Thread(target=fit, name="train", daemon=True)
    follower = Follower(folder, optimisation.steps)
    handler = StopHandler(workers.drain_s)
    with handler.listening():
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(_POLL_S)
            follower.look()
            if handler.requested and not asked:
                asked = True
                ray.wait([control.stop.remote()], timeout=_ANSWER_S)
                logger.info("%s: stopping after the step under way", handler.reason)
            handler.check()
    noted = ray.get(control.failure.remote())
    if noted is not None:
        raise unpickled(noted)
    if ended:
        _raise(ended[0])
    return handler.requested


def _raise(error: BaseException) -> None:
    """Raise what ended the workers: the error of this package behind it, or a fault of the environment."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, SdomlError):
            raise one from None
        queue += [one.__cause__, one.__context__, *getattr(one, "worker_failures", {}).values()]
    raise EnvironmentFault(
        f"Training ended: {str(error).strip().splitlines()[-1][:500]}",
        _SAFE,
        "Cure the cause; the same command goes on.",
    ) from error
