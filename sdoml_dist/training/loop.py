"""The loop of every experiment: one worker's part of data-parallel training.

An update is made of a fixed number of micro-batches, numbered; worker r of W takes every W-th. What a micro-batch holds, and
the noise that is drawn for it, depend on its number and the step alone, so the number of workers changes the result by
rounding only, and a training that is resumed goes on bit by bit as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdoml_dist.errors import SdomlError, UsageError
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.experiment import Batch, Experiment

# Sub-streams of random numbers.
_WEIGHTS, _NOISE = 1, 2


class DivergedError(SdomlError):
    """The loss is no number any more."""


@dataclass
class Worker:
    """One worker of the group.

    Attributes
    ----------
    rank, world : int
        Its number, and how many there are.
    device : torch.device
        Where it computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def mine(self, micro_batches: int) -> tuple[int, ...]:
        """Return the numbers of the micro-batches that are this worker's.

        Raises
        ------
        UsageError
            If the workers would not get equally many.
        """
        if micro_batches % self.world:
            fit = [number for number in range(1, micro_batches + 1) if micro_batches % number == 0]
            raise UsageError(
                f"{micro_batches} micro-batches per update cannot be shared evenly by {self.world} workers.",
                "All workers have to do the same work, or gradients would have other weights.",
                f"Use {', '.join(map(str, fit))} workers, or change training.micro_batch.",
            )
        return tuple(range(self.rank, micro_batches, self.world))


@dataclass
class Progress:
    """What the loop tells after a step; `metrics` are means over the whole update, the same on every worker."""

    step: int
    metrics: dict[str, float]
    validation: dict[str, float] | None = None
    folder: Path | None = None


class Loop:
    """Train a network.

    Parameters
    ----------
    experiment : Experiment
        Data, model and losses.
    optimisation : Optimisation
        Steps, batches, learning rate.
    watching : Watching
        Validation, checkpoints, early stop.
    worker : Worker
        This worker.
    """

    def __init__(self, experiment: Experiment, optimisation: Optimisation, watching: Watching, worker: Worker) -> None:
        self.experiment, self.optimisation, self.watching, self.worker = experiment, optimisation, watching, worker
        self.mine = worker.mine(optimisation.micro_batches)
        torch.manual_seed(_seed(optimisation.seed, _WEIGHTS))
        self.bare = experiment.model().to(worker.device)
        self.step, self.best, self.stale = 0, math.inf, 0
        self.optimiser = torch.optim.AdamW(
            self.bare.parameters(), lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.network: nn.Module = torch.compile(self.bare) if optimisation.compile else self.bare  # type: ignore[assignment]
        if worker.world > 1:
            # Buffers are averaged where they are used; broadcasting them with every pass would cost time for nothing.
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)
        self.half = optimisation.precision == "bfloat16" or (
            optimisation.precision == "auto" and worker.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.busy_s = 0.0

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step as a share of the given one."""
        settings = self.optimisation
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return 1.0
        done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the last step; `report` is called on every worker after each step.

        Parameters
        ----------
        report : callable
            Gets the progress. It calls :meth:`save` where a checkpoint is due.
        stop : callable
            Whether to stop after this step; asked on every worker, and any of them counts.

        Returns
        -------
        bool
            Whether it ran to its end: False if it was stopped.

        Raises
        ------
        DivergedError
            If the loss or a gradient is no number.
        """
        settings, watching = self.optimisation, self.watching
        batches = self.experiment.batches(self.step, settings.steps, self.mine)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for micro_batches in batches:
                began = time.perf_counter()
                metrics = self._update(micro_batches)
                self.step += 1
                self.busy_s += time.perf_counter() - began
                progress = Progress(self.step, metrics)
                last = self.step == settings.steps
                if self.step % watching.validate_every == 0 or last:
                    progress.validation = self.validate()
                    better = progress.validation.get("loss", math.inf) < self.best
                    self.best = min(self.best, progress.validation.get("loss", math.inf))
                    self.stale = 0 if better else self.stale + 1
                report(progress)
                if watching.patience is not None and self.stale >= watching.patience:
                    return True
                if self._any(stop()):
                    return last
        return True

    def _update(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Make one update of the weights and return means over all its micro-batches."""
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for index, (number, batch) in enumerate(zip(self.mine, micro_batches, strict=True)):
            last = index == len(self.mine) - 1
            waiting = isinstance(self.network, DistributedDataParallel) and not last
            with self.network.no_sync() if waiting else contextlib.nullcontext():  # type: ignore[operator]
                terms = self._terms(batch, self.step, number)
                (terms["loss"] / len(self.mine)).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.detach().double()
        norm = torch.nn.utils.clip_grad_norm_(
            self.bare.parameters(), self.optimisation.gradient_norm or math.inf, error_if_nonfinite=False
        )
        metrics = self._means(totals, len(self.mine)) | {
            "gradient_norm": float(norm), "learning_rate": float(self.scheduler.get_last_lr()[0])
        }  # fmt: skip
        if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["gradient_norm"]):
            raise DivergedError(
                f"At step {self.step} the loss is {metrics['loss']} and the norm of its gradient {metrics['gradient_norm']}.",
                "Weights were not changed by it; the newest checkpoint is from before.",
                "Lower training.learning_rate, set training.gradient_norm, or look at the samples of this step.",
            )
        self.optimiser.step()
        self.scheduler.step()
        return metrics

    def _terms(self, batch: Batch, step: int, number: int) -> dict[str, Tensor]:
        generator = torch.Generator(self.worker.device).manual_seed(_seed(self.optimisation.seed, _NOISE, step, number))
        moved = {name: value.to(self.worker.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.half):
            return self.experiment.loss(self.network, moved, generator)

    def _means(self, totals: dict[str, Tensor], count: int) -> dict[str, float]:
        """Return means over the micro-batches of all workers."""
        names = sorted(totals)
        values = torch.stack([totals[name] for name in names] + [torch.tensor(float(count)).to(totals[names[0]])])
        if self.worker.world > 1:
            dist.all_reduce(values)
        return dict(zip(names, (values[:-1] / values[-1]).tolist(), strict=True))

    def _any(self, flag: bool) -> bool:
        if self.worker.world == 1:
            return flag
        value = torch.tensor(float(flag), device=self.worker.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return means over the validation samples, micro-batch by micro-batch; empty if there are none."""
        self.average_buffers()
        self.bare.eval()
        totals: dict[str, Tensor] = {}
        count = 0
        for number, batch in enumerate(self.experiment.validation(self.worker.rank, self.worker.world)):
            # Negative steps: noise that training never draws, the same in every validation.
            for name, value in self._terms_of_bare(batch, number * self.worker.world + self.worker.rank).items():
                totals[name] = totals.get(name, 0.0) + value.double()
            count += 1
        if self.worker.world > 1:
            names: list[Any] = [None] * self.worker.world
            dist.all_gather_object(names, sorted(totals))
            for name in {name for part in names for name in part}:
                totals.setdefault(name, torch.zeros((), dtype=torch.float64, device=self.worker.device))
        return self._means(totals, count) if totals else {}

    def _terms_of_bare(self, batch: Batch, number: int) -> dict[str, Tensor]:
        generator = torch.Generator(self.worker.device).manual_seed(_seed(self.optimisation.seed, _NOISE, -1, number))
        moved = {name: value.to(self.worker.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.half):
            return self.experiment.loss(self.bare, moved, generator)

    @torch.no_grad()
    def average_buffers(self) -> None:
        """Make running statistics those of all workers."""
        if self.worker.world > 1:
            for buffer in self.bare.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.worker.world

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        """Write a checkpoint; on one worker, after :meth:`average_buffers` on all."""
        state = {"optimiser": self.optimiser.state_dict(), "scheduler": self.scheduler.state_dict()}
        about = {
            "step": self.step, "best": self.best, "stale": self.stale, "metrics": metrics,
            "training": self.optimisation.model_dump(mode="json"), **self.experiment.describe(),
        }  # fmt: skip
        checkpoints.save(folder, self.bare, state, about)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        about = checkpoints.about(folder)
        checkpoints.load_model(folder, self.bare)
        state = checkpoints.load_state(folder)
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.best, self.stale = about["step"], about["best"], about["stale"]


def _seed(*parts: int) -> int:
    """Return a seed for a sub-stream of random numbers, the same on every machine."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = (value ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF
