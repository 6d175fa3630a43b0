"""Progress: a bar on a terminal, a line every so often elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter

from tqdm import tqdm

from sdoml_dist.engine.metrics import Meters
from sdoml_dist.store.receipt import Outcome

logger = logging.getLogger("sdoml")


class Progress:
    """Count frames and tell about them.

    Parameters
    ----------
    frames, units : int
        What there is to do.
    every_s : float
        Seconds between lines where there is no terminal.
    noun : str
        What a frame is called.
    stage : str
        What is being done, for the metrics.
    """

    def __init__(self, frames: int, units: int, every_s: float = 30.0, noun: str = "frame", stage: str = "build") -> None:
        self.frames, self.units, self.every_s, self.noun = frames, units, every_s, noun
        self.outcomes: Counter[str] = Counter()
        self.done_units = 0
        self.busy_s = 0.0
        self.read_bytes = 0
        self.peak_memory_bytes = 0
        self._start = self._last = time.monotonic()
        self._meters = Meters(stage, units, frames)
        self._bar = tqdm(
            total=frames, unit=noun, disable=not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.05, leave=False
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def done(self) -> int:
        """Frames done."""
        return self.outcomes.total()

    def add(self, receipt: Outcome) -> None:
        """Count a finished unit."""
        counts = receipt.outcomes()
        self.outcomes += counts
        self._meters.add(receipt)
        self.done_units += 1
        self.busy_s += receipt.seconds
        self.read_bytes += receipt.read_bytes
        self.peak_memory_bytes = max(self.peak_memory_bytes, receipt.peak_memory_bytes)
        for detail in receipt.details:
            logger.info("failed %s", detail)
        self._bar.update(counts.total())
        if self.outcomes["failed"]:
            self._bar.set_postfix(failed=self.outcomes["failed"])
        if self._bar.disable and time.monotonic() - self._last >= self.every_s:
            self._last = time.monotonic()
            logger.info("%s", self.line())

    def line(self) -> str:
        """Return the state in one line."""
        rate = self.done / max(self.elapsed_s, 1e-9)
        left = (self.frames - self.done) / rate if rate else float("inf")
        return (
            f"{self.done}/{self.frames} {self.noun}s, {self.done_units}/{self.units} units, {rate:.1f} {self.noun}s/s, "
            f"{self.outcomes['failed']} failed, {_duration(left)} left"
        )

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
