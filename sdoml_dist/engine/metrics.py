"""What a run tells Ray's metrics: seen in Ray's dashboard and, in the format of Prometheus, at every node's metrics port.

The driver counts what comes back, so that a number is there once whatever happens to workers. A cluster that does not
collect metrics, as a private Ray, drops them.
"""

from __future__ import annotations

from collections import Counter as Tally

import numpy as np

from sdoml_dist.engine.cluster import ray
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.receipt import Outcome, channel_of, phases_of

Counter, Gauge, Histogram = ray.util.metrics.Counter, ray.util.metrics.Gauge, ray.util.metrics.Histogram

# From a few numbers of EVE to a day of full-disc frames.
_SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class Meters:
    """The metrics of a run or of one of its stages.

    Parameters
    ----------
    stage : str
        What is being done: the label ``stage`` of every metric.
    units, frames : int
        What there is to do.
    """

    def __init__(self, stage: str, units: int, frames: int) -> None:
        self._stage = {"stage": stage}
        self._left = [units, frames]
        self._spent: dict[str, Tally[str]] = {}
        keys = ("stage",)
        self._frames = Counter("sdoml_frames", "Frames done", (*keys, "channel", "outcome"))
        self._failures = Counter("sdoml_failures", "Frames that failed or were rejected", (*keys, "channel", "reason"))
        self._bytes = Counter("sdoml_read_bytes", "Bytes read from the source", (*keys, "channel"))
        self._written = Counter("sdoml_written_bytes", "Bytes of files written", (*keys, "channel"))
        phase = (*keys, "channel", "phase")
        self._phases = Counter("sdoml_phase_seconds", "What the time of units went into", phase)
        self._share = Gauge("sdoml_phase_share", "The same as a share of the time of the channel's units so far", phase)
        self._seconds = Histogram("sdoml_unit_seconds", "Time of a unit", _SECONDS, keys)
        self._memory = Gauge("sdoml_worker_memory_bytes", "Largest memory of the worker of the latest unit", keys)
        self._units_left = Gauge("sdoml_units_left", "Units that are not done yet", keys)
        self._frames_left = Gauge("sdoml_frames_left", "Frames that are not done yet", keys)
        self._tell_left()

    def _tell_left(self) -> None:
        for gauge, left in zip((self._units_left, self._frames_left), self._left, strict=True):
            gauge.set(max(left, 0), self._stage)

    def add(self, receipt: Outcome) -> None:
        """Count a finished unit."""
        for channel, codes in _columns(receipt):
            for code, number in zip(*np.unique(codes, return_counts=True), strict=True):
                status, labels = FrameStatus(int(code)), self._stage | {"channel": channel}
                self._frames.inc(int(number), labels | {"outcome": status.outcome})
                if status.outcome in ("failed", "rejected"):
                    self._failures.inc(int(number), labels | {"reason": status.label})
        channel = channel_of(receipt)
        its = self._stage | {"channel": channel}
        for counter, number in ((self._bytes, receipt.read_bytes), (self._written, getattr(receipt, "written_bytes", 0))):
            if number:
                counter.inc(number, its)
        self._seconds.observe(receipt.seconds, self._stage)
        self._memory.set(receipt.peak_memory_bytes, self._stage)
        spent = {phase: seconds for phase, seconds in phases_of(receipt).items() if seconds > 0}
        so_far = self._spent.setdefault(channel, Tally())
        so_far.update(spent)
        total = sum(so_far.values())
        for phase, seconds in spent.items():
            self._phases.inc(seconds, its | {"phase": phase})
        for phase, seconds in so_far.items():
            self._share.set(seconds / total, its | {"phase": phase})
        self._left = [self._left[0] - 1, self._left[1] - receipt.outcomes().total()]
        self._tell_left()


def _columns(receipt: Outcome) -> list[tuple[str, np.ndarray]]:
    """Return the status codes by channel; those of a unit that is not told apart stand under what it is of."""
    codes, channels = np.asarray(receipt.status), getattr(receipt, "channels", ())
    if codes.ndim == 2 and len(channels) == codes.shape[1]:
        return [(name, codes[:, column]) for column, name in enumerate(channels)]
    return [(channel_of(receipt), codes)]
