"""Samples of image translation: observations that belong together, read, binned and encoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from functools import cached_property

import numpy as np
import torch

from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.order import Order
from sdoml_dist.training.samples import Samples

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From physical values to network inputs, targets, and where targets count."""


class Pairs:
    """Samples read and encoded; micro-batches have ``inputs``, ``target``, ``mask``, ``index`` and ``time``.

    Parameters
    ----------
    encode : callable
        Makes inputs, targets and mask of physical values, all of shape (B, channels, Y, X).
    groups : sequence of Samples
        Rows belong together.
    size, threads : int
        Pixels per side; threads that read.
    """

    def __init__(self, encode: Encode, groups: Sequence[Samples], size: int, threads: int) -> None:
        self._encode, self._groups, self._size, self._threads = encode, tuple(groups), size, threads
        self.samples = groups[0]

    @cached_property
    def _loaders(self) -> list[Loader]:
        return [Loader(group, None, self._size, threads=self._threads) for group in self._groups]

    def part(self, label: str) -> Pairs:
        """Return the samples of one part; raises `UsageError` if it has none."""
        self.samples.part(label)
        chosen = np.flatnonzero(self.samples.labels == label)
        return self.take(chosen)

    def take(self, rows: np.ndarray) -> Pairs:
        """Return some of the samples, in the order given."""
        return Pairs(self._encode, [group.take(rows) for group in self._groups], self._size, self._threads)

    def read(self, rows: np.ndarray) -> Batch:
        """Return one micro-batch."""
        return self._encoded([loader.read(rows) for loader in self._loaders])

    def physical(self, rows: np.ndarray) -> np.ndarray:
        """Return physical values, shape (rows, channels of all groups, size, size), NaN where there is no data."""
        return np.concatenate([loader.read(rows)["physical"].numpy() for loader in self._loaders], axis=1)

    def _encoded(self, parts: Sequence[Batch]) -> Batch:
        physical = np.concatenate([part["physical"].numpy() for part in parts], axis=1)
        inputs, target, mask = (torch.from_numpy(np.ascontiguousarray(one)) for one in self._encode(physical))
        return {"inputs": inputs, "target": target, "mask": mask, "index": parts[0]["index"], "time": parts[0]["time"]}

    def steps(self, order: Order, start: int, stop: int, mine: tuple[int, ...]) -> Generator[list[Batch], None, None]:
        """Yield for every step the list of a worker's micro-batches, as :meth:`Loader.steps` does."""
        with contextlib.ExitStack() as stack:
            streams = [loader.steps(order, start, stop, mine) for loader in self._loaders]
            for stream in streams:
                stack.callback(stream.close)
            for lists in zip(*streams, strict=True):
                yield [self._encoded(parts) for parts in zip(*lists, strict=True)]

    def validation(self, micro_batch: int, rank: int = 0, world: int = 1) -> Generator[Batch, None, None]:
        """Yield every sample once, in the order of time."""
        with contextlib.ExitStack() as stack:
            streams = [loader.validation(micro_batch, rank, world) for loader in self._loaders]
            for stream in streams:
                stack.callback(stream.close)
            for parts in zip(*streams, strict=True):
                yield self._encoded(parts)
