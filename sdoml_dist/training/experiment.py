"""What an experiment is to the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Tensors of a micro-batch by name."""


class Experiment(Protocol):
    """Data, model, losses and metrics of one published result.

    Instances are made on every worker from the same configuration and hold nothing that differs between workers.
    """

    def model(self) -> nn.Module:
        """Return the network with fresh weights, drawn from torch's global generator."""

    def batches(self, start_step: int, steps: int, mine: tuple[int, ...]) -> Iterator[list[Batch]]:
        """Yield for each step from `start_step` the micro-batches of a worker.

        Parameters
        ----------
        start_step, steps : int
            First step, and step after the last.
        mine : tuple of int
            Numbers of the micro-batches of every step that belong to this worker.
        """

    def validation(self, rank: int, world: int) -> Iterator[Batch]:
        """Yield the part of the validation samples that belongs to a worker."""

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return scalars of a micro-batch: ``loss``, which is minimised, and others that are logged."""

    def waited_s(self) -> float:
        """Return the seconds that this worker has waited for data."""

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint says of data and model, as plain data."""
