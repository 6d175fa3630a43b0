"""Patches of magnetograms: where they are cut out, and micro-batches of them, read ahead by threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.geometry import FIELD_ARCSEC
from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.order import Order
from sdoml_dist.training.reading import Reader
from sdoml_dist.training.samples import Samples

Where = Literal["disc", "centre"]
# Middles of patches lie within this share of the solar radius: some patches reach beyond the limb, as some of a whole disc do.
_REACH = 0.95
_PREFETCH = 2
_VALIDATION = 2**31


def radius_pixels(pixels: int, solar_radius_arcsec: float) -> float:
    """Return the solar radius on the dataset's grid, pixels; it is that of every frame."""
    return pixels * solar_radius_arcsec / FIELD_ARCSEC


def grid_mu(
    pixels: int, solar_radius_arcsec: float, row: int = 0, column: int = 0, size: int | None = None
) -> np.ndarray:
    """Return the cosine of the heliocentric angle on a part of the grid, 0 off the disc: float32, shape (size, size)."""
    size = pixels if size is None else size
    middle, radius = (pixels - 1) / 2, radius_pixels(pixels, solar_radius_arcsec)
    y = ((np.arange(row, row + size) - middle) / radius) ** 2
    x = ((np.arange(column, column + size) - middle) / radius) ** 2
    mu: np.ndarray = np.sqrt(np.maximum(1.0 - y[:, None] - x[None, :], 0.0)).astype(np.float32)
    return mu


class Patches:
    """Micro-batches of patches of one part of the samples.

    A micro-batch has, for B patches of S pixels, ``field`` (float32, (B, 1, S, S), gauss, 0 where there is none), ``mask`` (bool:
    where all channels are valid), ``mu`` (cosine of the heliocentric angle), and ``target`` where there is a second channel.
    What it holds depends on step and number of the micro-batch alone.

    Parameters
    ----------
    samples : Samples
        Magnetograms, and their stacks where there is a second channel.
    solar_radius_arcsec : float
        Of the grid.
    size : int
        S.
    per_image : int
        Patches of an image in an epoch.
    where : {"disc", "centre"}
        Anywhere on the disc, other places in every epoch; or the middle of it, as published.
    seed, window, threads : int
        Of order and places; images whose patches are shuffled together; threads that read.

    Raises
    ------
    UsageError
        If the images are smaller than a patch.
    """

    def __init__(
        self, samples: Samples, solar_radius_arcsec: float, size: int, *, per_image: int = 1, where: Where = "disc",
        seed: int = 0, window: int = 4, threads: int = 4,
    ) -> None:  # fmt: skip
        if samples.pixels < size:
            raise UsageError(f"Images of {samples.pixels} pixels have no patches of {size}.", "", "Lower data.size.")
        self.samples, self.radius, self.size = samples, solar_radius_arcsec, size
        self.per_image, self.where, self.seed = per_image, where, seed
        self.window, self.threads = window, threads
        self.reader = Reader(samples)
        # Images of the windows under way; every one of them has several patches.
        self._image = lru_cache(maxsize=window + _PREFETCH)(self._read)
        self.waited_s = 0.0

    def order(self, micro_batch: int, micro_batches: int) -> Order:
        """Return the order of patches of every epoch."""
        images = np.repeat(np.arange(len(self.samples)), self.per_image)
        return Order(images, micro_batch, micro_batches, seed=self.seed, window=self.window)

    def corner(self, image: int, patch: int, epoch: int) -> tuple[int, int]:
        """Return row and column of a patch's first pixel."""
        pixels, half = self.samples.pixels, (self.samples.pixels - self.size) / 2
        if self.where == "centre":
            return int(half), int(half)
        moment = int(self.samples.times[image].astype("datetime64[s]").astype(np.int64))
        rng = np.random.default_rng([self.seed, epoch, moment, patch])
        reach = _REACH * radius_pixels(pixels, self.radius)
        while True:
            y, x = rng.uniform(-1, 1, 2) * reach
            if np.hypot(y, x) <= reach:
                return tuple(int(np.clip(round(half + offset), 0, 2 * half)) for offset in (y, x))  # type: ignore[return-value]

    def steps(self, order: Order, start: int, stop: int, mine: tuple[int, ...]) -> Generator[list[Batch], None, None]:
        """Yield for every step the list of a worker's micro-batches."""
        jobs = (
            partial(self.cut, order.micro(*order.position(step), number), order.position(step)[0])
            for step in range(start, stop)
            for number in mine
        )
        batches = self._ahead(jobs)
        try:
            for _ in range(start, stop):
                yield [next(batches) for _ in mine]
        finally:
            batches.close()

    def validation(self, micro_batch: int, rank: int, world: int) -> Generator[Batch, None, None]:
        """Yield every patch once, always the same ones; micro-batch j belongs to worker j mod `world`."""
        rows = np.arange(len(self.samples) * self.per_image)
        starts = range(rank * micro_batch, rows.size, world * micro_batch)
        return self._ahead(partial(self.cut, rows[first : first + micro_batch], _VALIDATION) for first in starts)

    def cut(self, rows: np.ndarray, epoch: int) -> Batch:
        """Return a micro-batch of patches, numbered through all images."""
        size = self.size
        made = {name: np.zeros((rows.size, 1, size, size), np.float32) for name in ("field", "mu")}
        if len(self.samples.channels) > 1:
            made["target"] = np.zeros_like(made["field"])
        mask = np.zeros((rows.size, 1, size, size), bool)
        for place, row in enumerate(rows):
            image, patch = divmod(int(row), self.per_image)
            y, x = self.corner(image, patch, epoch)
            cut = self._image(image)[:, y : y + size, x : x + size]
            mask[place, 0] = np.isfinite(cut).all(0)
            for name, values in zip(("field", "target"), cut, strict=False):
                made[name][place, 0] = np.nan_to_num(values)
            made["mu"][place, 0] = grid_mu(self.samples.pixels, self.radius, y, x, size)
        return {name: torch.from_numpy(values) for name, values in (made | {"mask": mask}).items()}

    def _read(self, image: int) -> np.ndarray:
        found = [self.reader.image(image, channel) for channel in range(len(self.samples.channels))]
        assert all(one is not None for one in found)  # samples have all their channels
        return np.stack(found)  # type: ignore[arg-type]

    def _ahead(self, jobs: Iterable[Callable[[], Batch]]) -> Generator[Batch, None, None]:
        """Yield what some jobs make, in order, while threads work on the next ones."""
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="sdoml-patches") as pool:
            left = iter(jobs)
            try:
                while True:
                    while len(waiting) <= _PREFETCH and (job := next(left, None)) is not None:
                        waiting.append(pool.submit(job))
                    if not waiting:
                        return
                    asked = time.perf_counter()
                    batch = waiting.popleft().result()
                    self.waited_s += time.perf_counter() - asked
                    yield batch
            finally:
                for left_over in waiting:
                    left_over.cancel()
