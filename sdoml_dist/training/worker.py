"""One worker of a training on Ray: restores, trains, writes checkpoints and the log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.control import StopSignal, lasting
from sdoml_dist.training.log import Log
from sdoml_dist.training.loop import Loop, Progress, Worker, never

# Ray looks for announced preemptions every five seconds; asking it is a barrier of all workers.
_LOOK_EVERY_S = 2.0
SAMPLES = "samples"


def work(config: dict[str, Any]) -> None:
    """Run one worker of the group; Ray calls it again on all workers after a loss.

    Parameters
    ----------
    config : dict
        What :func:`sdoml_dist.training.trainer.train` gives to all workers.
    """
    control = config["control"]
    if ray.get(control.failure.remote()) is not None:
        # An error that would come again: ending well keeps Ray from trying.
        return
    try:
        _Training(config).run()
    except Exception as error:
        told = lasting(error, alone=ray.train.get_context().get_world_size() == 1)
        if told is not None:
            ray.get(control.fail.remote(told))
        raise


class _Training:
    def __init__(self, config: dict[str, Any]) -> None:
        self.folder, self.control = Path(config["folder"]), config["control"]
        self.watching = Watching.model_validate(config["watching"])
        context = ray.train.get_context()
        self.rank, world = context.get_world_rank(), context.get_world_size()
        device = get_device() if config["use_gpu"] else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.experiment = config["make"](config["settings"])
        self.loop = Loop(
            self.experiment, Optimisation.model_validate(config["optimisation"]), self.watching,
            Worker(self.rank, world, device),
        )  # fmt: skip
        start = self._start()
        if start:
            self.loop.load(self.folder / start)
        self.log = Log(self.folder, self.loop.step) if self.rank == 0 else None
        self.began = self.told_s = time.monotonic()
        self.told_step = self.loop.step
        self.looked = self.began
        self.preempted: Any = None

    def _start(self) -> str:
        """Return the name of the checkpoint to go on from, the same on all workers; empty at the beginning."""
        name = ""
        if self.rank == 0:
            checkpoints.tidy(self.folder)
            there = checkpoints.found(self.folder)
            name = there[-1].name if there else ""
        agreed: str = broadcast_from_rank_zero(name)
        return agreed

    def run(self) -> None:
        stop = StopSignal(self.control) if self.rank == 0 else never
        try:
            self.loop.run(self._report, stop, self._look)
        finally:
            if self.log is not None:
                self.log.close()

    def _look(self) -> bool:
        """Return whether it is time to ask for announced preemptions; rank 0 says for all."""
        now = time.monotonic()
        if self.rank != 0 or now - self.looked < _LOOK_EVERY_S:
            return False
        self.looked = now
        return True

    def _announced(self, progress: Progress) -> bool:
        """Return whether a preemption was announced that no checkpoint was written for yet."""
        if not progress.looking:
            return False
        info = ray.train.get_preemption_info()
        new = info is not None and info != self.preempted
        self.preempted = info
        return new

    def _report(self, progress: Progress) -> None:
        due = (
            self._announced(progress) or progress.step % self.watching.checkpoint_every == 0 or progress.last
            or progress.stopping or progress.better
        )  # fmt: skip
        if self.rank != 0 or self.log is None:
            return
        metrics = progress.metrics | {f"validation_{name}": value for name, value in (progress.validation or {}).items()}
        if due or progress.validation is not None or progress.step % self.watching.log_every == 0:
            self.log.write(progress.step, metrics | self._pace(progress.step))
        if progress.validation is not None:
            place = self.folder / SAMPLES
            place.mkdir(exist_ok=True)
            networks = self.loop.shown()
            with torch.no_grad():
                self.experiment.sample_grid(networks, place, progress.step)
        if due:
            # The log first: lines up to a checkpoint are never written again.
            self.log.summarise()
            checkpoints.keep(
                self.folder, progress.step, lambda folder: self.loop.save(folder, metrics), self.watching.keep
            )

    def _pace(self, step: int) -> dict[str, float]:
        """Return how fast it goes since the last line, and the share of time that was waited for data since the start."""
        now = time.monotonic()
        samples = (step - self.told_step) * self.loop.optimisation.global_batch
        pace = samples / max(now - self.told_s, 1e-9)
        self.told_step, self.told_s = step, now
        waited = self.experiment.waited_s()
        waited = self.loop.waited_s if waited is None else waited
        return {
            "elapsed_s": now - self.began, "samples_per_s": pace,
            "data_wait": waited / max(waited + self.loop.busy_s, 1e-9),
        }  # fmt: skip
