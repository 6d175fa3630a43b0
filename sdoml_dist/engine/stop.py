"""Stopping in good order: the first signal drains, the second one breaks off."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray

from sdoml_dist.errors import Stopped, UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_POLL_S = 0.2


class BreakOff(KeyboardInterrupt):
    """Raised in the main thread when draining took too long or a second signal came."""


def _patience_s(drain_s: float) -> float:
    """Return how long draining may take: ``SDOML_DRAIN_S`` where whoever started this process knows better, else `drain_s`."""
    text = os.environ.get("SDOML_DRAIN_S", "").strip()
    try:
        return float(text) if text else drain_s
    except ValueError:
        raise UsageError(f"SDOML_DRAIN_S={text} is not a number of seconds.", "", "Correct it, or unset it.") from None


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the stop signals meanwhile; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _break_off(_number: int, _frame: FrameType | None) -> None:
    raise BreakOff


@contextlib.contextmanager
def interruptible(safe: str = "All finished units are committed.") -> Iterator[None]:
    """Break off at the first signal, for the parts of a run in which there is nothing to drain, and say what is safe.

    Parameters
    ----------
    safe : str
        What to tell of the work done so far.

    Raises
    ------
    Stopped
        If the block was broken off, by this or in the middle of draining.
    """
    try:
        with _handling(_break_off):
            yield
    except BreakOff:
        raise Stopped("Broken off: units under way were given up.", safe, "The same command goes on.") from None


class StopRequest:
    """Whether the run shall stop, and how far its workers have come to rest.

    Parameters
    ----------
    brake : ray.actor.ActorHandle
        The run's brake.
    drain_s : float
        How long units under way may take to end.
    """

    def __init__(self, brake: Any, drain_s: float) -> None:
        self._brake, self._drain_s = brake, _patience_s(drain_s)
        self._requested = threading.Event()
        self._closed = threading.Event()
        self._late = False
        self.reason = ""
        self.ended: int | None = None
        """Units that ended in all, known once none is under way any more."""

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._requested.is_set()

    def request(self, reason: str) -> None:
        """Ask for a stop."""
        if not self.requested:
            self.reason = reason
            self._requested.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise BreakOff
        self.request(signal.Signals(number).name)

    def _watch(self) -> None:
        while not self._requested.wait(_POLL_S):
            if self._closed.is_set():
                return
        deadline = time.monotonic() + self._drain_s
        try:
            ray.get(self._brake.stop.remote())
            while not self._closed.wait(_POLL_S):
                running, ended = ray.get(self._brake.census.remote())
                if running == 0:
                    self.ended = ended
                    return
                if time.monotonic() > deadline:
                    break
        except ray.exceptions.RayError:
            pass
        if not self._closed.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals meanwhile."""
        watcher = threading.Thread(target=self._watch, name="stop", daemon=True)
        watcher.start()
        try:
            with _handling(self._on_signal):
                yield
        finally:
            self._closed.set()
            watcher.join(timeout=2)


class StopHandler:
    """Signals to a driver that waits for something which drains by itself when told to.

    Parameters
    ----------
    drain_s : float
        How long draining may take after the first signal.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s = _patience_s(drain_s)
        self._since: float | None = None
        self.reason = ""

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._since is not None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._since is not None:
            raise BreakOff
        self.reason, self._since = signal.Signals(number).name, time.monotonic()

    def check(self) -> None:
        """Break off if draining takes too long."""
        if self._since is not None and time.monotonic() - self._since > self._drain_s:
            raise BreakOff

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals meanwhile."""
        with _handling(self._on_signal):
            yield
