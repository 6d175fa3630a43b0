"""What an experiment is to the training system: data, networks and losses of one published result."""

from __future__ import annotations

import abc
import difflib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdoml_dist.errors import RecipeError
from sdoml_dist.experiments import EXPERIMENTS
from sdoml_dist.recipe_base import Section

Batch = dict[str, Tensor]
"""Tensors of a micro-batch by name."""


class Experiment(abc.ABC):
    """Data, networks, losses and metrics of one published result.

    Instances are made on every worker from the same settings and hold nothing that differs between workers. What they draw
    at random comes from the generator that they are given, or from torch's global one, which is seeded anew for every
    micro-batch.

    Parameters
    ----------
    settings : dict
        ``config`` (plain data of `Config`) and ``prepared`` (what `prepare` returned).

    Attributes
    ----------
    Config : type
        The configuration, with ``experiment``, ``name``, ``training``, ``watching``, ``workers`` and ``output``.
    players : tuple of str
        Networks that are updated one after the other in every step, each by its own loss; the last one is the result.
    citation : str
        Paper and licence, for the model card.
    """

    Config: ClassVar[type[Section]]
    players: ClassVar[tuple[str, ...]] = ("model",)
    citation: ClassVar[str] = ""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.config: Any = self.Config.model_validate(settings["config"])
        self.prepared: dict[str, Any] = settings.get("prepared", {})

    @classmethod
    def prepare(cls, config: Any, folder: Path) -> dict[str, Any]:
        """Return what is measured and pinned once, when a training begins, and kept for all that goes on with it.

        Runs on the driver.

        Parameters
        ----------
        config : Section
            The configuration, a `Config`.
        folder : pathlib.Path
            Folder of the run.

        Returns
        -------
        dict
            Plain data: snapshot of the dataset, normalisation.
        """
        return {}

    def model(self) -> nn.Module:
        """Return the network with fresh weights, drawn from torch's global generator; where there is one player."""
        raise TypeError(f"{type(self).__name__} has neither model() nor models()")

    def models(self) -> dict[str, nn.Module]:
        """Return the networks of all players with fresh weights."""
        return {self.players[0]: self.model()}

    @abc.abstractmethod
    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield for each step from `start_step` the micro-batches of a worker.

        Parameters
        ----------
        start_step, steps : int
            First step, and step after the last.
        mine : tuple of int
            Numbers of the micro-batches of every step that belong to this worker.
        """

    @abc.abstractmethod
    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield the validation micro-batches `rank`, `rank` + `world`, ...; none if there are no such samples."""

    @abc.abstractmethod
    def loss(self, *args: Any, **named: Any) -> dict[str, Tensor]:
        """Return scalars of a micro-batch: ``loss``, which is minimised, and others that are logged.

        With one player it is ``loss(model, batch, generator)``, with several ``loss(networks, batch, generator,
        player=name)``: `networks` has all modules by name, and only that of `player` gets gradients. It is wrapped for
        data-parallel training: call it, but do not reach for its attributes.
        """

    def validate(self, networks: dict[str, nn.Module], batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars of a validation micro-batch; the smallest ``loss`` makes the best checkpoint.

        By default the loss of the last player.
        """
        if len(self.players) == 1:
            return self.loss(networks[self.players[0]], batch, generator)
        return self.loss(networks, batch, generator, player=self.players[-1])

    def sample_grid(self, networks: dict[str, nn.Module], folder: Path, step: int) -> None:  # noqa: B027 - optional
        """Draw a PNG of samples into a folder; called after every validation on one worker, without gradients."""

    def waited_s(self) -> float | None:
        """Return the seconds that this worker has waited for data; None is what the loop has measured."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model, as plain data."""
        return {
            "experiment": self.config.experiment, "config": self.config.model_dump(mode="json"), "prepared": self.prepared
        }  # fmt: skip


def find_experiment(name: object) -> type[Experiment]:
    """Return the class of an experiment.

    Raises
    ------
    RecipeError
        If there is none of that name.
    """
    if not isinstance(name, str) or name not in EXPERIMENTS:
        near = difflib.get_close_matches(str(name), list(EXPERIMENTS), 1, 0.4)
        raise RecipeError(
            f"There is no experiment {name!r}." if name is not None else "The configuration names no experiment.",
            f"Experiments are {', '.join(sorted(EXPERIMENTS))}.",
            f"Did you mean {near[0]!r}?" if near else "Write one of them as 'experiment: NAME'.",
        )
    module, _, attribute = EXPERIMENTS[name].partition(":")
    found: type[Experiment] = getattr(importlib.import_module(module), attribute)
    return found
