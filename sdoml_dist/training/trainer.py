"""Training on a Ray cluster: workers, checkpoints, logs, and going on after whatever ended the last run."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdoml_dist.atomic import write_atomic
from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError, StoreError
from sdoml_dist.recipe_base import canonical_json, difference
from sdoml_dist.training.config import Optimisation, Watching, Workers
from sdoml_dist.training.experiment import Experiment

logger = logging.getLogger("sdoml")

IDENTITY, LOG = "training.json", "metrics.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes
    ----------
    exit_code : ExitCode
        Of the command.
    step : int
        Steps that are done.
    checkpoint : str
        Folder of the newest checkpoint.
    metrics : dict
        Of the last step.
    """

    exit_code: ExitCode
    step: int
    checkpoint: str
    metrics: dict[str, Any]


def train(
    make: Callable[[dict[str, Any]], Experiment], settings: dict[str, Any], output: str | Path,
    optimisation: Optimisation, watching: Watching, workers: Workers, *, name: str = "training",
    cpus: int | None = None,
) -> Outcome:  # fmt: skip
    """Train an experiment, or go on where an earlier run stopped: the same call does both.

    Parameters
    ----------
    make : callable
        Makes the experiment from `settings`; importable on every worker.
    settings : dict
        What the experiment needs, as plain data.
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

    Raises
    ------
    StoreError
        If the folder holds another training.
    EnvironmentFault
        If workers are lost more often than allowed, or the cluster is too small.
    SdomlError
        What ended the training on a worker.
    """
    folder = Path(output).absolute() / name
    _claim(folder, {"settings": settings, "training": optimisation.model_dump(mode="json")})
    with connect(cpus) as cluster:
        gpus = sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
        use_gpu = workers.device == "gpu" or (workers.device == "auto" and gpus >= workers.number)
        if workers.number * workers.cpus > cluster.cpus or (use_gpu and gpus < workers.number):
            raise EnvironmentFault(
                f"{workers.number} workers of {workers.cpus:g} CPUs{' and a GPU' if use_gpu else ''} do not fit: the cluster "
                f"has {cluster.cpus:g} CPUs and {gpus:g} GPUs.",
                "The group would wait for ever.",
                "Lower workers.number or workers.cpus, or add nodes.",
            )
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "make": make, "settings": settings, "optimisation": optimisation.model_dump(mode="json"),
                "watching": watching.model_dump(mode="json"), "folder": str(folder), "use_gpu": use_gpu,
            },
            scaling_config=ScalingConfig(
                num_workers=workers.number, use_gpu=use_gpu, resources_per_worker={"CPU": workers.cpus},
            ),
            run_config=RunConfig(
                name=name, storage_path=str(Path(output).absolute()),
                failure_config=FailureConfig(max_failures=workers.maximum_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=watching.keep),
            ),
        )  # fmt: skip
        try:
            result = trainer.fit()
        except Exception as error:
            cause = _ours(error)
            if cause is not None:
                raise cause from None
            raise EnvironmentFault(
                f"Training ended: {str(error).strip().splitlines()[-1][:500]}",
                "The newest checkpoint is kept.",
                "Cure the cause; the same command goes on.",
            ) from error
    metrics = dict(result.metrics or {})
    place = str(result.checkpoint.path) if result.checkpoint is not None else ""
    return Outcome(ExitCode.COMPLETE, int(metrics.get("step", 0)), place, metrics)


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Say what is trained here, or refuse to go on with something else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / IDENTITY
    if not path.is_file():
        write_atomic(path, json.dumps(identity, indent=1).encode())
        return
    lines = difference(json.loads(path.read_text(encoding="utf-8")), json.loads(canonical_json(identity)))
    # More steps are a longer training, not another one.
    lines = [line for line in lines if not line.strip().partition(":")[0].endswith("training.steps")]
    if lines:
        raise StoreError(
            f"{folder} holds another training:\n" + "\n".join(lines),
            "Going on would mix two networks.",
            "Undo the change, or give this training an output of its own.",
        )
    write_atomic(path, json.dumps(identity, indent=1).encode())


def _ours(error: BaseException | None) -> SdomlError | None:
    """Return the error of this package that ended a worker, if it was one."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, SdomlError):
            return one
        queue += [one.__cause__, one.__context__, *getattr(one, "worker_failures", {}).values()]
    return None


def _worker(config: dict[str, Any]) -> None:
    """Run one worker of the group; Ray calls it again after a loss."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from sdoml_dist.training.loop import Loop, Progress, Worker

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device() if config["use_gpu"] else torch.device("cpu")
    watching = Watching.model_validate(config["watching"])
    experiment = config["make"](config["settings"])
    loop = Loop(experiment, Optimisation.model_validate(config["optimisation"]), watching, Worker(rank, world, device))
    newest = ray.train.get_checkpoint()
    if newest is not None:
        with newest.as_directory() as folder:
            loop.load(Path(folder))
    log = Log(Path(config["folder"]), loop.step) if rank == 0 else None
    started = time.monotonic()
    stop = False

    def report(progress: Progress) -> None:
        nonlocal stop
        last = progress.step == loop.optimisation.steps
        stop = ray.train.get_preemption_info() is not None
        due = progress.step % watching.checkpoint_every == 0 or last or stop
        if log is not None and (due or progress.validation or progress.step % watching.log_every == 0):
            elapsed = time.monotonic() - started
            log.write(
                progress.step,
                progress.metrics
                | {f"validation_{key}": value for key, value in (progress.validation or {}).items()}
                | {"elapsed_s": elapsed, "data_wait": experiment.waited_s() / max(elapsed, 1e-9)},
            )
        if not due:
            return
        loop.average_buffers()
        told = {
            "step": progress.step,
            **progress.metrics,
            **{f"validation_{k}": v for k, v in (progress.validation or {}).items()},
        }
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                loop.save(Path(folder), told)
                made = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(told, checkpoint=made if rank == 0 else None)

    loop.run(report, lambda: stop)


class Log:
    """Metrics of a training, a line of JSON per step that is told, beside TensorBoard's files.

    Parameters
    ----------
    folder : pathlib.Path
        Where.
    step : int
        Step that is gone on from; lines of later steps, of a run that lost them, are taken out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG
        kept = [line for line in read_log(folder) if line["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "unix_s": time.time()} | metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last one that was cut off is left out."""
    path = folder / LOG
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
