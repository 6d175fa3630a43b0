"""The order of samples: which of them make micro-batch k of a step, as a pure function of seed, epoch and step.

An epoch shuffles the stored shards, and then the samples of every few shards that follow each other ("a window"): samples
come in random order, yet neighbours in it often lie in the same objects of the store. A step takes A micro-batches of
fixed size; of W workers, number r takes those with k mod W = r. Neither content nor order of a micro-batch depends on the
workers, so a training can go on with another number of them, and (epoch, step) is all that it has to remember.
"""

from __future__ import annotations

import numpy as np

from sdoml_dist.errors import UsageError

# Sub-streams of the random numbers.
_SHARDS, _SAMPLES = 1, 2
_MASK = 0xFFFFFFFFFFFFFFFF


class Order:
    """Order of the samples of every epoch.

    Parameters
    ----------
    shards : numpy.ndarray
        Stored shard of each sample, as any number, shape (samples,).
    micro_batch : int
        Samples per micro-batch.
    micro_batches : int
        Micro-batches per step.
    seed : int
        Another seed gives another order.
    window : int
        Shards whose samples are shuffled together.
    shuffle : bool
        Whether to shuffle; otherwise every epoch has the samples as they stand.
    keep_rest : bool
        What to do with the samples at the end of an epoch that fill no step. For training they are dropped (others in
        every epoch); for validation they are kept: the last step has fewer micro-batches, the last of them fewer samples.

    Raises
    ------
    UsageError
        If a number is not positive, or the samples do not fill a step.
    """

    def __init__(
        self, shards: np.ndarray, micro_batch: int, micro_batches: int = 1, *, seed: int = 0, window: int = 4,
        shuffle: bool = True, keep_rest: bool = False,
    ) -> None:  # fmt: skip
        for name, value in (("micro_batch", micro_batch), ("micro_batches", micro_batches), ("window", window)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")
        self.micro_batch, self.micro_batches = micro_batch, micro_batches
        self.seed, self.window, self.shuffle, self.keep_rest = seed, window, shuffle, keep_rest
        _, self._shard = np.unique(np.asarray(shards), return_inverse=True)
        self._last: tuple[int, np.ndarray] | None = None
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{len(self)} samples do not fill one step of {micro_batches} micro-batches of {micro_batch}.",
                "An epoch would have no step.",
                "Lower the global batch, or take more samples.",
            )

    def __len__(self) -> int:
        return int(self._shard.size)

    @property
    def global_batch(self) -> int:
        """Samples per step."""
        return self.micro_batch * self.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch."""
        return -(-len(self) // self.global_batch) if self.keep_rest else len(self) // self.global_batch

    def position(self, number: int) -> tuple[int, int]:
        """Return epoch and step in it of a step that is counted through all epochs."""
        return divmod(number, self.steps_per_epoch)

    def epoch(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in their order, shape (samples,), with the rest that may be dropped."""
        if not self.shuffle:
            return np.arange(len(self))
        if self._last is None or self._last[0] != epoch:
            shards = int(self._shard.max()) + 1
            rank = np.empty(shards, np.int64)
            rank[np.argsort(_hashes(shards, self.seed, epoch, _SHARDS), kind="stable")] = np.arange(shards)
            window = rank[self._shard] // self.window
            self._last = epoch, np.lexsort((_hashes(len(self), self.seed, epoch, _SAMPLES), window))
        return self._last[1]

    def micro(self, epoch: int, step: int, number: int) -> np.ndarray:
        """Return the samples of a micro-batch, shape (micro_batch,); fewer at the end of an epoch that keeps its rest.

        Raises
        ------
        IndexError
            If the epoch has no such step, or the step no such micro-batch.
        """
        if not (epoch >= 0 and 0 <= step < self.steps_per_epoch and 0 <= number < self.micro_batches):
            raise IndexError(f"no micro-batch {number} of step {step} in epoch {epoch}")
        first = step * self.global_batch + number * self.micro_batch
        return self.epoch(epoch)[first : first + self.micro_batch]

    def mine(self, rank: int, world: int) -> tuple[int, ...]:
        """Return the numbers of the micro-batches of every step that belong to a worker.

        Raises
        ------
        UsageError
            If the workers would not get equally many, or there is no such worker.
        """
        if not 0 <= rank < world:
            raise UsageError(f"There is no worker {rank} of {world}.")
        if self.micro_batches % world:
            fit = [str(number) for number in range(1, self.micro_batches + 1) if self.micro_batches % number == 0]
            raise UsageError(
                f"{self.micro_batches} micro-batches per step cannot be shared evenly by {world} workers.",
                "All workers have to do the same work, or gradients would have other weights.",
                f"Use {', '.join(fit)} workers, or change the size of a micro-batch.",
            )
        return tuple(range(rank, self.micro_batches, world))


def chosen(times: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Return the rows of a random subset of samples, ascending; all if there are not more than `number`.

    Whether a sample is chosen before another depends on seed and times alone.
    """
    keys = _mix(times.astype("datetime64[ns]").astype(np.int64).view(np.uint64) ^ np.uint64(_key(seed, 0, _SAMPLES)))
    rows: np.ndarray = np.sort(np.argsort(keys, kind="stable")[:number])
    return rows


def _hashes(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """Return random numbers for 0 ... count - 1. NumPy's generators may change between versions; these never do."""
    return _mix(np.arange(count, dtype=np.uint64) ^ np.uint64(_key(seed, epoch, stream)))


def _key(*parts: int) -> int:
    value = 0
    for part in parts:
        value = int(_mix(np.array([value ^ (part & _MASK)], np.uint64))[0])
    return value


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers by the finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA, doi:10.1145/2660193.2660195)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
