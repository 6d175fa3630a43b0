"""The loop of every experiment: one worker's part of data-parallel training.

An update is made of a fixed number of micro-batches, numbered; worker r of W takes every W-th. What a micro-batch holds, and
the noise that is drawn for it, depend on its number and the step alone, so the number of workers changes the result by
rounding only, and a training that is resumed goes on bit by bit as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdoml_dist.errors import SdomlError, UsageError
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.experiment import Batch, Experiment
from sdoml_dist.training.players import Average, Player, Statistics, rate, seed

# Sub-streams of random numbers.
_WEIGHTS, _NOISE, _VALIDATION = 1, 2, 3


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
            If there is not one for every worker.
        """
        if micro_batches < self.world:
            raise UsageError(
                f"{micro_batches} micro-batches per update are too few for {self.world} workers.",
                "Each worker computes at least one.",
                f"Use at most {micro_batches} workers, or make training.micro_batch smaller.",
            )
        return tuple(range(self.rank, micro_batches, self.world))


@dataclass
class Progress:
    """What the loop tells after a step, the same on every worker.

    Attributes
    ----------
    step : int
        Steps that are done.
    metrics : dict
        Means over the whole update.
    validation : dict or None
        Means over the validation samples, after a step that was validated.
    better : bool
        Whether this validation was the best so far.
    last : bool
        Whether the training ends here.
    stopping, looking : bool
        Whether any worker's `stop` and `look` said yes.
    """

    step: int
    metrics: dict[str, float]
    validation: dict[str, float] | None = None
    better: bool = False
    last: bool = False
    stopping: bool = False
    looking: bool = False


def never() -> bool:
    """Say no."""
    return False


class Loop:
    """Train the networks of an experiment.

    Parameters
    ----------
    experiment : Experiment
        Data, networks and losses.
    optimisation : Optimisation
        Steps, batches, learning rate.
    watching : Watching
        Validation, checkpoints, early stop.
    worker : Worker
        This worker.

    Attributes
    ----------
    networks : dict
        The bare networks by the names of their players.
    step : int
        Steps that are done.
    best, stale : float, int
        Smallest validation loss, and validations since then.
    busy_s, waited_s : float
        Seconds spent on updates, and on waiting for their data.
    """

    def __init__(self, experiment: Experiment, optimisation: Optimisation, watching: Watching, worker: Worker) -> None:
        self.experiment, self.optimisation, self.watching, self.worker = experiment, optimisation, watching, worker
        self.mine = worker.mine(optimisation.micro_batches)
        torch.manual_seed(seed(optimisation.seed, _WEIGHTS))
        made = experiment.models()
        self.networks = {name: made[name].to(worker.device) for name in experiment.players}
        last = self.networks[experiment.players[-1]]
        # Before the network is wrapped or compiled.
        self.average = Average(last, optimisation.ema) if optimisation.ema is not None else None
        self.players = [Player(name, net, optimisation, worker.world) for name, net in self.networks.items()]
        self.statistics = Statistics(list(self.networks.values()), worker.world, optimisation.micro_batches)
        self.half = optimisation.precision == "bfloat16" or (
            optimisation.precision == "auto" and worker.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.step, self.best, self.stale = 0, math.inf, 0
        self.busy_s = self.waited_s = 0.0

    def finished(self) -> bool:
        """Return whether there is nothing left to do: all steps are done, or patience has run out."""
        patience = self.watching.patience
        return self.step >= self.optimisation.steps or (patience is not None and self.stale >= patience)

    def shown(self) -> dict[str, nn.Module]:
        """Return the networks as they are validated: bare, the last one with averaged weights if these are kept."""
        if self.average is None:
            return dict(self.networks)
        return self.networks | {self.experiment.players[-1]: self.average.network}

    def run(
        self, report: Callable[[Progress], None], stop: Callable[[], bool] = never, look: Callable[[], bool] = never
    ) -> bool:
        """Train to the last step; `report` is called on every worker after each step.

        Parameters
        ----------
        report : callable
            Gets the progress. It calls :meth:`save` where a checkpoint is due.
        stop : callable
            Whether to stop after the step under way; asked on every worker, and any of them counts.
        look : callable
            The same for `Progress.looking`, which the loop itself makes nothing of.

        Returns
        -------
        bool
            Whether it ran to its end: False if it was stopped.

        Raises
        ------
        DivergedError
            If the loss or a gradient is no number.
        """
        if self.finished():
            return True
        batches = self.experiment.batches(self.step, self.optimisation.steps, self.mine)
        with contextlib.ExitStack() as stack:
            if hasattr(batches, "close"):
                stack.callback(batches.close)
            for micro_batches in self._timed(batches):
                began = time.perf_counter()
                metrics, stopping, looking = self._update(micro_batches, stop, look)
                self.step += 1
                self.busy_s += time.perf_counter() - began
                progress = Progress(self.step, metrics, stopping=stopping, looking=looking)
                if self.step % self.watching.validate_every == 0 or self.step == self.optimisation.steps:
                    progress.validation = self.validate()
                    value = progress.validation.get("loss", math.inf)
                    progress.better = value < self.best
                    self.best, self.stale = min(self.best, value), 0 if progress.better else self.stale + 1
                progress.last = self.finished()
                report(progress)
                if progress.last or progress.stopping:
                    return progress.last
        raise UsageError(
            f"The samples ended at step {self.step} of {self.optimisation.steps}.", "", "Is the training part empty?"
        )

    def _timed(self, batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Pass the micro-batches of each step on, and measure how long they let us wait."""
        while True:
            began = time.perf_counter()
            micro_batches = next(batches, None)
            self.waited_s += time.perf_counter() - began
            if micro_batches is None:
                return
            yield micro_batches

    def _update(
        self, micro_batches: list[Batch], stop: Callable[[], bool], look: Callable[[], bool]
    ) -> tuple[dict[str, float], bool, bool]:
        """Make one update of all players and return means over all micro-batches, and what `stop` and `look` said."""
        for network in self.networks.values():
            network.train()
        metrics: dict[str, float] = {"learning_rate": rate(self.optimisation, self.step)}
        signals = [0.0, 0.0]
        for place, player in enumerate(self.players):
            for other in self.players:
                other.learn(other is player)
            totals = self._gradients(place, player, micro_batches)
            norm = float(player.clip())
            if player is self.players[-1]:
                signals = [float(stop()), float(look())]
            told, signals = self._means(totals, len(self.mine), signals)
            told["gradient_norm"] = norm
            self._check(player, told)
            player.update(self.step)
            prefix = f"{player.name}_" if len(self.players) > 1 else ""
            metrics |= {prefix + name: value for name, value in told.items()}
        if self.average is not None:
            self.average.update(self.step)
        return metrics, signals[0] > 0, signals[1] > 0

    def _gradients(self, place: int, player: Player, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """Fill a player's gradients and return the sums of its terms over this worker's micro-batches."""
        player.optimiser.zero_grad(set_to_none=True)
        networks = self.networks | {player.name: player.network}
        totals: dict[str, Tensor] = {}
        # Gradients are averaged over workers, and workers may have different numbers of micro-batches.
        weight = self.worker.world / self.optimisation.micro_batches
        with self.statistics.step():
            for number, batch in zip(self.mine, micro_batches, strict=True):
                with player.sharing(number == self.mine[-1]), self.statistics.micro_batch():
                    generator = self._generator(_NOISE, self.step, place, number)
                    moved = self._moved(batch)
                    with self._cast():
                        if len(self.players) == 1:
                            terms = self.experiment.loss(player.network, moved, generator)
                        else:
                            terms = self.experiment.loss(networks, moved, generator, player=player.name)
                    (terms["loss"] * weight).backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0.0) + value.detach().double()
        return totals

    def _check(self, player: Player, told: dict[str, float]) -> None:
        if not math.isfinite(told["loss"]) or not math.isfinite(told["gradient_norm"]):
            whose = f" of the {player.name}" if len(self.players) > 1 else ""
            raise DivergedError(
                f"At step {self.step} the loss{whose} is {told['loss']} and the norm of its gradient {told['gradient_norm']}.",
                "Weights were not changed by it; the newest checkpoint is from before.",
                "Lower training.learning_rate, set training.gradient_norm, or look at the samples of this step.",
            )

    def _generator(self, *stream: int) -> torch.Generator:
        """Return the generator of a micro-batch, and seed torch's global one, which dropout draws from, alike."""
        value = seed(self.optimisation.seed, *stream)
        torch.manual_seed(value)
        return torch.Generator(self.worker.device).manual_seed(value)

    def _moved(self, batch: Batch) -> Batch:
        return {name: value.to(self.worker.device, non_blocking=True) for name, value in batch.items()}

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.half)

    def _means(
        self, totals: dict[str, Tensor], count: int, flags: list[float]
    ) -> tuple[dict[str, float], list[float]]:
        """Return means over the micro-batches of all workers, and sums of flags."""
        names = sorted(totals)
        more = torch.tensor([float(count), *flags], dtype=torch.float64, device=self.worker.device)
        values = torch.cat([torch.stack([totals[name] for name in names]), more]) if names else more
        if self.worker.world > 1:
            dist.all_reduce(values)
        numbers = values.tolist()
        total = numbers[len(names)]
        return {name: number / total for name, number in zip(names, numbers, strict=False)}, numbers[len(names) + 1 :]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return means over the validation samples, micro-batch by micro-batch; empty if there are none."""
        networks = self.shown()
        for network in networks.values():
            network.eval()
        totals: dict[str, Tensor] = {}
        count = 0
        for index, batch in enumerate(self.experiment.validation(self.worker.rank, self.worker.world)):
            # Noise that training never draws, the same in every validation.
            generator = self._generator(_VALIDATION, index * self.worker.world + self.worker.rank)
            with self._cast():
                terms = self.experiment.validate(networks, self._moved(batch), generator)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.double()
            count += 1
        if self.worker.world > 1:
            names: list[Any] = [None] * self.worker.world
            dist.all_gather_object(names, sorted(totals))
            for name in {name for part in names for name in part}:
                totals.setdefault(name, torch.zeros((), dtype=torch.float64, device=self.worker.device))
        return self._means(totals, count, [])[0] if totals else {}

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        """Write a checkpoint into a folder; called on one worker."""
        networks = dict(self.networks)
        if self.average is not None:
            networks[checkpoints.EMA] = self.average.network
        state = {player.name: player.optimiser.state_dict() for player in self.players}
        about = {
            "step": self.step, "best": self.best if math.isfinite(self.best) else None, "stale": self.stale,
            "finished": self.finished(), "metrics": metrics, "players": list(self.networks), "citation": self.experiment.citation,
            "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in self.networks.items()},
            "training": self.optimisation.model_dump(mode="json"), **self.experiment.describe(),
        }  # fmt: skip
        checkpoints.save(folder, networks, state, about)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        UsageError
            If it is of other networks, or was trained on data that were prepared in another way.
        """
        about = checkpoints.about(folder)
        checkpoints.check(folder, about, self.experiment.describe())
        for name, network in self.networks.items():
            checkpoints.load_model(folder, network, name)
        if self.average is not None:
            checkpoints.load_model(folder, self.average.network, checkpoints.EMA)
        state = checkpoints.load_state(folder)
        for player in self.players:
            player.optimiser.load_state_dict(state[player.name])
        self.step, self.stale = about["step"], about["stale"]
        self.best = math.inf if about["best"] is None else about["best"]
