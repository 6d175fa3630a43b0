"""The loader: micro-batches of samples as tensors, read ahead by threads while the network works."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdoml_dist.errors import UsageError
from sdoml_dist.models.binning import bin_images
from sdoml_dist.models.moments import ChannelMoments
from sdoml_dist.models.transforms import ChannelTransforms, network_input
from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.order import Order, chosen
from sdoml_dist.training.reading import Reader
from sdoml_dist.training.samples import Samples

# Copies of a full image that a thread holds at most: packed, unpacked, and what binning makes on the way.
_IMAGES_PER_THREAD = 8


@dataclass
class Timing:
    """How long the loader has worked, and let its user wait.

    Attributes
    ----------
    waited_s : float
        Seconds that the user has waited for micro-batches.
    total_s : float
        Seconds between asking for the first micro-batch and getting the last, the user's own work included.
    samples : int
        Samples handed out.
    """

    waited_s: float = 0.0
    total_s: float = 0.0
    samples: int = 0

    @property
    def wait(self) -> float:
        """Share of the time that was spent waiting."""
        return self.waited_s / self.total_s if self.total_s else 0.0

    @property
    def samples_per_s(self) -> float:
        """Samples per second of the whole time."""
        return self.samples / self.total_s if self.total_s else 0.0


class Loader:
    """Read, bin and transform samples.

    A micro-batch is a dictionary of tensors; B samples, C image channels and L series in the order of `Samples.channels`:

    ``inputs``
        float32 (B, C, size, size): network inputs, 0 where there is no data. With `transforms` only.
    ``mask``
        bool, same shape: where there is data.
    ``physical``
        float32, same shape: physical units, NaN where there is no data. If asked for, and without `transforms`.
    ``series``
        float32 (B, L): physical units, NaN where there is no value. If there are series.
    ``time``, ``observed``
        int64 (B,) and (B, C + L): nanoseconds since 1970 UTC of the sample and of its observations; the smallest number
        there is (NaT) where there is none.
    ``index``
        int64 (B,): which sample.

    Samples are never skipped or replaced: what cannot be read is an error, at the place of its micro-batch. The dataset is
    opened at the samples' snapshot on first use, and again in another process that gets the loader pickled.

    Parameters
    ----------
    samples : Samples
        What to read.
    transforms : ChannelTransforms, optional
        Of the image channels; without, values stay physical.
    size : int, optional
        Side of the images wanted, by block means; by default as stored.
    physical : bool
        Whether to give physical values too.
    threads : int
        Threads that read and decode.
    prefetch : int
        Micro-batches that are read ahead.
    attempts, backoff_s
        As in :class:`sdoml_dist.training.reading.Reader`.
    pin : bool
        Whether to make the tensors in page-locked memory, from which copies to a GPU are faster; needs CUDA.

    Attributes
    ----------
    timing : Timing
        Of everything that was read so far.

    Raises
    ------
    UsageError
        If transforms are of other channels, or `size` does not divide the side of the images.
    """

    def __init__(
        self, samples: Samples, transforms: ChannelTransforms | None = None, size: int | None = None, *,
        physical: bool = False, threads: int = 8, prefetch: int = 2, attempts: int = 4, backoff_s: float = 0.5,
        pin: bool = False,
    ) -> None:  # fmt: skip
        if transforms is not None:
            transforms.check([samples.channels[index] for index in samples.images])
        self.size = samples.pixels if size is None else size
        if self.size < 1 or samples.pixels % self.size:
            raise UsageError(f"Images of {samples.pixels} pixels have no square blocks that give {size}.")
        for name, value, least in (("threads", threads, 1), ("prefetch", prefetch, 0), ("attempts", attempts, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; it must be at least {least}.")
        self.samples, self.transforms, self.physical = samples, transforms, physical or transforms is None
        self.threads, self.prefetch, self.pin = threads, prefetch, pin
        self.reader = Reader(samples, attempts, backoff_s)
        self.timing = Timing()

    def memory_bytes(self, micro_batch: int) -> int:
        """Return the most memory that reading micro-batches of a size takes, besides what the user keeps of them.

        Micro-batches read ahead, the one being filled and the one handed out; images in the threads; per sample and channel
        its place and moments.
        """
        numbers = (4 + 1 if self.transforms is not None else 0) + (4 if self.physical else 0)
        batch = micro_batch * len(self.samples.images) * self.size**2 * numbers
        return (
            (self.prefetch + 2) * batch
            + self.threads * (_IMAGES_PER_THREAD * 4 * self.samples.pixels**2 + batch // micro_batch)
            + self.samples.slots.size * 48
        )

    def read(self, rows: np.ndarray) -> Batch:
        """Read one micro-batch.

        Parameters
        ----------
        rows : numpy.ndarray
            Which samples, in order.
        """
        return next(self.stream([np.asarray(rows)]))

    def micro_batches(self, order: Order, start: int, stop: int, mine: tuple[int, ...]) -> Generator[Batch, None, None]:
        """Yield a worker's micro-batches of the steps from `start` to `stop`, counted through all epochs.

        Parameters
        ----------
        order : Order
            Made of `Samples.shards` of the samples.
        start, stop : int
            First step, and step after the last.
        mine : tuple of int
            Numbers of the worker's micro-batches in every step, by :meth:`Order.mine`.
        """
        self._check(order)
        numbers = (
            order.micro(*order.position(step), number) for step in range(start, stop) for number in mine
        )  # fmt: skip
        return self.stream(rows for rows in numbers if rows.size)

    def steps(self, order: Order, start: int, stop: int, mine: tuple[int, ...]) -> Generator[list[Batch], None, None]:
        """Yield for every step the list of a worker's micro-batches; otherwise as `micro_batches`."""
        batches = self.micro_batches(order, start, stop, mine)
        try:
            for _ in range(start, stop):
                yield [next(batches) for _ in mine]
        finally:
            batches.close()

    def validation(self, micro_batch: int, rank: int = 0, world: int = 1) -> Generator[Batch, None, None]:
        """Yield every sample once, in the order of time; micro-batch j belongs to worker j mod `world`.

        Parameters
        ----------
        micro_batch : int
            Samples per micro-batch; the last may have fewer.
        rank, world : int
            Number of the worker, and how many there are.
        """
        starts = range(rank * micro_batch, len(self.samples), world * micro_batch)
        rows = np.arange(len(self.samples))
        return self.stream(rows[first : first + micro_batch] for first in starts)

    def _check(self, order: Order) -> None:
        if len(order) != len(self.samples):
            raise UsageError(f"The order is of {len(order)} samples, but there are {len(self.samples)}.")

    def stream(self, rows: Iterable[np.ndarray]) -> Generator[Batch, None, None]:
        """Yield any micro-batches in the order given, read ahead; the threads end when the generator does.

        Parameters
        ----------
        rows : iterable of numpy.ndarray
            The samples of each micro-batch.
        """
        work = iter(rows)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sdoml-loader")
        closing = threading.Event()
        ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
        last = time.perf_counter()
        try:
            while True:
                asked = time.perf_counter()
                while len(ahead) <= self.prefetch and (some := next(work, None)) is not None:
                    batch = self._empty(some)
                    fill = [pool.submit(self._fill, batch, place, int(row), closing) for place, row in enumerate(some)]
                    ahead.append((batch, fill))
                if not ahead:
                    return
                batch, jobs = ahead.popleft()
                for job in jobs:
                    job.result()
                now = time.perf_counter()
                self.timing.waited_s += now - asked
                self.timing.total_s += now - last
                self.timing.samples += len(jobs)
                last = now
                yield batch
        finally:
            closing.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _empty(self, rows: np.ndarray) -> Batch:
        """Return the tensors of a micro-batch, with everything that need not be read."""
        samples = self.samples
        images = (rows.size, len(samples.images), self.size, self.size)
        batch: Batch = {}
        if samples.images:
            batch["mask"] = self._tensor(images, torch.bool)
            if self.transforms is not None:
                batch["inputs"] = self._tensor(images, torch.float32)
            if self.physical:
                batch["physical"] = self._tensor(images, torch.float32)
        if samples.series:
            batch["series"] = self._tensor((rows.size, len(samples.series)), torch.float32)
        batch["time"] = torch.from_numpy(samples.times[rows].astype("datetime64[ns]").view(np.int64).copy())
        batch["observed"] = torch.from_numpy(samples.observed[rows].astype("datetime64[ns]").view(np.int64).copy())
        batch["index"] = torch.from_numpy(rows.astype(np.int64))
        return batch

    def _tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.pin)

    def _fill(self, batch: Batch, place: int, row: int, closing: threading.Event) -> None:
        """Read one sample into its place of a micro-batch; runs in a thread."""
        samples = self.samples
        if samples.images:
            values = np.full((len(samples.images), self.size, self.size), np.nan, np.float32)
            for position, channel in enumerate(samples.images):
                if closing.is_set():
                    return
                image = self.reader.image(row, channel, closing.wait)
                if image is not None:
                    values[position] = bin_images(image, self.size)
            if self.transforms is not None:
                inputs, mask = network_input(self.transforms, values)
                batch["inputs"].numpy()[place] = inputs
            else:
                mask = np.isfinite(values)
            batch["mask"].numpy()[place] = mask
            if self.physical:
                batch["physical"].numpy()[place] = values
        for position, channel in enumerate(samples.series):
            batch["series"].numpy()[place, position] = self.reader.number(row, channel, closing.wait)


def measure(
    samples: Samples, transforms: ChannelTransforms, size: int | None = None, *, threads: int = 8, attempts: int = 4
) -> ChannelMoments:
    """Return the moments of the stretched images of some samples; those of several parts can be merged.

    Parameters
    ----------
    samples : Samples
        What to read, all of it.
    transforms : ChannelTransforms
        Kinds and scales; their statistics are not used.
    size, threads, attempts
        As in :class:`Loader`.
    """
    moments = ChannelMoments.empty(len(transforms.channels))
    transforms.check([samples.channels[index] for index in samples.images])
    loader = Loader(samples, None, size, threads=threads, attempts=attempts)
    for batch in loader.validation(1):
        moments = moments.merge(transforms.measure(batch["physical"].numpy()))
    return moments


def fit_transforms(
    samples: Samples, transforms: ChannelTransforms, size: int | None = None, *, number: int = 256,
    part: str = "train", seed: int = 0, threads: int = 8,
) -> ChannelTransforms:  # fmt: skip
    """Return transforms with statistics of the training part.

    Parameters
    ----------
    samples : Samples
        All samples; none but those of `part` are read.
    transforms : ChannelTransforms
        Kinds and scales.
    size : int, optional
        Side of the binned images that the network gets.
    number : int
        How many samples are read at most: a random subset that depends on `seed` and their times alone.
    part : str
        Label of the training part.
    seed, threads : int
        Of the subset; threads that read.

    Raises
    ------
    UsageError
        If the part has no samples, or a channel no valid or only one value.
    """
    training = samples.part(part)
    subset = training.take(chosen(training.times, number, seed))
    return transforms.with_moments(measure(subset, transforms, size, threads=threads))
